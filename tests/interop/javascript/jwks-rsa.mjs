import jwt from 'jsonwebtoken'
import jwksClient from 'jwks-rsa'

// The client holds five keys, by kid, for ten minutes unless it is told how many milliseconds; for any other kid it fetches
// the key set.
export function verifier(issuer, audience, keySet, cacheMaxAge) {
  const client = jwksClient({ jwksUri: keySet, ...(cacheMaxAge && { cacheMaxAge }) })
  const key = (header, done) => client.getSigningKey(header.kid, (error, found) => done(error, found?.getPublicKey()))
  const expected = { issuer, audience, algorithms: ['RS256', 'ES256'], complete: true }
  return (token) =>
    new Promise((resolve, reject) => {
      jwt.verify(token, key, expected, (error, decoded) => {
        if (error) return reject(error)
        if (decoded.header.typ !== 'at+jwt') return reject(new Error('this is no access token'))
        resolve(decoded.payload)
      })
    })
}

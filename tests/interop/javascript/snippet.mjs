import { createRemoteJWKSet, jwtVerify } from 'jose'

// Make one of these and keep it: it holds the key set, and fetches it again when it meets a new key.
export function verifier(issuer, audience, keySet = `${issuer}/.well-known/jwks.json`) {
  const keys = createRemoteJWKSet(new URL(keySet))
  return async (token) => {
    // Clocks may differ by a minute (`keys.clock_skew`).
    const expected = { issuer, audience, typ: 'at+jwt', algorithms: ['RS256', 'ES256'], clockTolerance: 60 }
    const { payload } = await jwtVerify(token, keys, expected)
    return payload
  }
}

import { createRemoteJWKSet, jwtVerify } from 'jose'

// The key set is kept for as many milliseconds as it is told, instead of ten minutes.
export function verifier(issuer, audience, keySet, cacheMaxAge) {
  const keys = createRemoteJWKSet(new URL(keySet), { cacheMaxAge })
  return async (token) => {
    const expected = { issuer, audience, typ: 'at+jwt', algorithms: ['RS256', 'ES256'] }
    const { payload } = await jwtVerify(token, keys, expected)
    return payload
  }
}

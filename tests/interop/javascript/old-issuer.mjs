// The issuer from which somebody moves to Keyround: signs access tokens by npm jose with keys and kids of its own.
//
//   node old-issuer.mjs PRIVATE_JWK ISSUER AUDIENCE EXPIRES_AT
//
// Standard output: the token.

import { readFileSync } from 'node:fs'
import { SignJWT, importJWK } from 'jose'

const [file, issuer, audience, expiresAt] = process.argv.slice(2)
const jwk = JSON.parse(readFileSync(file, 'utf8'))
const token = await new SignJWT({ scope: 'read', client_id: 'billing' })
  .setProtectedHeader({ alg: jwk.alg, kid: jwk.kid, typ: 'at+jwt' })
  .setIssuer(issuer)
  .setSubject('billing')
  .setAudience(audience)
  .setIssuedAt()
  .setExpirationTime(Number(expiresAt))
  .sign(await importJWK(jwk, jwk.alg))
process.stdout.write(token)

import { createServer } from 'node:http'
import { createVerifier } from 'fast-jwt'
import buildGetJwks from 'get-jwks'

const { ISSUER, AUDIENCE, PORT } = process.env

const jwks = buildGetJwks({ issuersWhitelist: [ISSUER], providerDiscovery: true })
const verify = createVerifier({
  key: ({ header: { kid, alg } }) => jwks.getPublicKey({ kid, alg, domain: ISSUER }),
  algorithms: ['RS256', 'ES256'],
  allowedIss: ISSUER,
  allowedAud: AUDIENCE,
  checkTyp: 'at+jwt',
})

createServer(async (request, response) => {
  try {
    const token = (request.headers.authorization ?? '').replace('Bearer ', '')
    const { sub } = await verify(token)
    response.end(`hello ${sub}`)
  } catch (error) {
    const why = error.originalError ?? error
    response.writeHead(401, { 'www-authenticate': 'Bearer error="invalid_token"' })
    response.end(`${why.code}: ${why.message}`)
  }
}).listen(Number(PORT), '127.0.0.1')

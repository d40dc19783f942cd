// npm oidc-provider as the benchmark runs it: the same clients, the same grant, JWT access tokens of the same lifetime, in
// memory. Takes its clients as JSON in its argument (`[[id, secret, algorithm], ...]`), and says where it serves.
import { generateKeyPairSync } from 'node:crypto'
import { createServer } from 'node:http'
import { Provider } from 'oidc-provider'

const clients = JSON.parse(process.argv[2])
const algorithms = Object.fromEntries(clients.map(([id, , algorithm]) => [id, algorithm]))
const key = (alg, kind, options) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }),
  alg,
  use: 'sig',
})

const provider = new Provider('http://127.0.0.1:8080', {
  clients: clients.map(([client_id, client_secret]) => ({
    client_id,
    client_secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    scope: 'read',
  })),
  jwks: { keys: [key('RS256', 'rsa', { modulusLength: 2048 }), key('ES256', 'ec', { namedCurve: 'P-256' })] },
  scopes: ['read'],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'https://api.example.com',
      getResourceServerInfo: (_, resource, client) => ({
        audience: resource,
        scope: 'read',
        accessTokenFormat: 'jwt',
        accessTokenTTL: 600,
        jwt: { sign: { alg: algorithms[client.clientId] } },
      }),
    },
  },
})

const server = createServer(provider.callback())
server.listen(0, '127.0.0.1', () => console.log(`127.0.0.1:${server.address().port}`))

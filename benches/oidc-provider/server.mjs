// npm oidc-provider as the benchmark runs it: the same clients, the same grants, in memory; JWT access tokens of the same lifetime for services,
// and opaque ones for people, which its userinfo endpoint takes. A browser at its login page is logged in at once. Takes its clients as JSON in its argument (`[[id, secret, algorithm], ...]`), and says where it serves.
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

const apps = ['RS256', 'ES256'].map((alg) => ({
  client_id: `app-${alg.toLowerCase()}`,
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code'],
  response_types: ['code'],
  redirect_uris: ['https://app.example.com/callback'],
  id_token_signed_response_alg: alg,
}))

const provider = new Provider('http://127.0.0.1:8080', {
  clients: [
    ...clients.map(([client_id, client_secret]) => ({
      client_id,
      client_secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      scope: 'read',
    })),
    ...apps,
  ],
  findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub, email: 'ada@example.com', email_verified: false }) }),
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  cookies: { keys: ['of the benchmark alone'] },
  interactions: { url: (_, interaction) => `/login/${interaction.uid}` },
  loadExistingGrant: async (ctx) => {
    const { client, session } = ctx.oidc
    const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId })
    grant.addOIDCScope('openid email')
    await grant.save()
    return grant
  },
  jwks: { keys: [key('RS256', 'rsa', { modulusLength: 2048 }), key('ES256', 'ec', { namedCurve: 'P-256' })] },
  scopes: ['openid', 'email', 'read'],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: (_, client) => (client.clientId in algorithms ? 'https://api.example.com' : undefined),
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

const answer = provider.callback()
const server = createServer((request, response) => {
  if (request.url.startsWith('/login/')) {
    provider.interactionFinished(request, response, { login: { accountId: 'ada' } })
  } else {
    answer(request, response)
  }
})
server.listen(0, '127.0.0.1', () => console.log(`127.0.0.1:${server.address().port}`))

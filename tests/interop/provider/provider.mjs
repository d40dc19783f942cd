// An OpenID provider as others run it: npm oidc-provider over https on loopback.
//
//   node provider.mjs CERTIFICATE KEY SETTINGS
//
// SETTINGS is JSON: { "accounts": { "ada": { "email": ..., ... } }, "clients": [...], "configuration": {...} }. Whoever logs in is
// named by the header X-Account of the browser, which stands for a person who types a name and a password. First line of
// standard output: the issuer.

import { generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { Provider } from 'oidc-provider'

const [certificate, key, text] = process.argv.slice(2)
const { accounts, clients, configuration } = JSON.parse(text)

const privateKey = (type, options, members) => {
  const jwk = generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' })
  return { ...jwk, ...members, use: 'sig' }
}

const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) })
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const issuer = `https://localhost:${server.address().port}`

const provider = new Provider(issuer, {
  clients,
  jwks: {
    keys: [
      privateKey('rsa', { modulusLength: 2048 }, { kid: 'rsa', alg: 'RS256' }),
      privateKey('ec', { namedCurve: 'P-256' }, { kid: 'p256', alg: 'ES256' }),
    ],
  },
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  features: { devInteractions: { enabled: false } },
  cookies: { keys: ['for tests alone'] },
  pkce: { required: () => true },
  findAccount: (_, id) => accounts[id] && { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  // Nobody is asked whether we may know the e-mail.
  loadExistingGrant: async ({ oidc }) => {
    const grant = new oidc.provider.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId })
    grant.addOIDCScope('openid email profile')
    await grant.save()
    return grant
  },
  ...configuration,
})

const answer = provider.callback()
server.on('request', async (request, response) => {
  if (!request.url.startsWith('/interaction/')) return answer(request, response)
  const accountId = request.headers['x-account']
  const result = accountId ? { login: { accountId } } : { error: 'access_denied' }
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false })
})
console.log(issuer)

import express from 'express'
import session from 'express-session'
import * as client from 'openid-client'

const { ISSUER, CLIENT_ID, CLIENT_SECRET, SESSION_SECRET, SITE, PORT, API, CHECK_SIGNATURES } = process.env

const config = await client.discovery(new URL(ISSUER), CLIENT_ID, CLIENT_SECRET)
// By default TLS to the issuer vouches for the ID token (OpenID Connect Core section 3.1.3.7). This checks its signature as well.
if (CHECK_SIGNATURES) client.enableNonRepudiationChecks(config)

const app = express()
const cookie = { httpOnly: true, sameSite: 'lax', secure: SITE.startsWith('https:') }
app.use(session({ secret: SESSION_SECRET, resave: false, saveUninitialized: false, cookie }))

app.get('/login', async (request, response) => {
  const login = {
    pkceCodeVerifier: client.randomPKCECodeVerifier(),
    expectedState: client.randomState(),
    expectedNonce: client.randomNonce(),
  }
  request.session.login = login
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri: `${SITE}/callback`,
    scope: 'openid profile email offline_access',
    code_challenge: await client.calculatePKCECodeChallenge(login.pkceCodeVerifier),
    code_challenge_method: 'S256',
    state: login.expectedState,
    nonce: login.expectedNonce,
  })
  response.redirect(url.href)
})

app.get('/callback', async (request, response) => {
  const tokens = await client.authorizationCodeGrant(config, new URL(request.originalUrl, SITE), request.session.login)
  // Another session identifier than before the login.
  request.session.regenerate(() => {
    keep(request.session, tokens)
    response.redirect('/')
  })
})

function keep(session, tokens) {
  const { access_token, refresh_token, id_token } = tokens
  session.tokens = { ...session.tokens, access_token, refresh_token, ...(id_token && { id_token }) }
  session.expiresAt = Date.now() + tokens.expiresIn() * 1000
}

// One refresh at a time: a refresh token is good for one use.
const refreshes = new Map()

async function accessToken(session) {
  if (session.expiresAt - Date.now() < 10_000) {
    const { refresh_token } = session.tokens
    if (!refreshes.has(refresh_token)) refreshes.set(refresh_token, client.refreshTokenGrant(config, refresh_token))
    keep(session, await refreshes.get(refresh_token).finally(() => refreshes.delete(refresh_token)))
  }
  return session.tokens.access_token
}

app.get('/', async (request, response) => {
  if (!request.session.tokens) return response.redirect('/login')
  const token = await accessToken(request.session)
  const answer = await fetch(API, { headers: { Authorization: `Bearer ${token}` } })
  response.status(answer.status).send(await answer.text())
})

app.get('/logout', (request, response) => {
  const { id_token } = request.session.tokens
  const url = client.buildEndSessionUrl(config, { id_token_hint: id_token, post_logout_redirect_uri: `${SITE}/bye` })
  request.session.destroy(() => response.redirect(url.href))
})

app.get('/bye', (request, response) => response.send('Logged out.'))

app.listen(Number(PORT), '127.0.0.1')

// The API that the relying parties call. Proxies hand on the access token in a header of their own.
import express from 'express'
import { auth } from 'express-oauth2-jwt-bearer'

const { ISSUER, AUDIENCE, PORT } = process.env

const app = express()
app.use((request, response, next) => {
  const token = request.headers['x-forwarded-access-token']
  if (token) request.headers.authorization = `Bearer ${token}`
  next()
})
app.get('/bye', (request, response) => response.send('Logged out.'))
app.use(auth({ issuerBaseURL: ISSUER, audience: AUDIENCE, strict: true }))
app.get('/', (request, response) => response.json({ jti: request.auth.payload.jti, kid: request.auth.header.kid }))
app.listen(Number(PORT), '127.0.0.1')

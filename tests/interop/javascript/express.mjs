import express from 'express'
import { auth } from 'express-oauth2-jwt-bearer'

const { ISSUER, AUDIENCE, PORT } = process.env

const app = express()
app.use(auth({ issuerBaseURL: ISSUER, audience: AUDIENCE, strict: true }))
app.get('/', (request, response) => response.send(`hello ${request.auth.payload.sub}`))
app.listen(Number(PORT), '127.0.0.1')

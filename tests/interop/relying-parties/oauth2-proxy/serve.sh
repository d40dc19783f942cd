#!/usr/bin/env bash
# Serves the relying party oauth2-proxy at PORT, with the shown settings and the names of this site.
export OAUTH2_PROXY_CLIENT_SECRET=$CLIENT_SECRET OAUTH2_PROXY_COOKIE_SECRET=${SESSION_SECRET:0:32}
exec target/interop/relying-parties/oauth2-proxy --config tests/interop/relying-parties/oauth2-proxy/oauth2-proxy.cfg \
    --oidc-issuer-url "$ISSUER" --client-id "$CLIENT_ID" --redirect-url "$SITE/oauth2/callback" --whitelist-domain "${ISSUER#https://}" \
    --upstream "$API/" --http-address "127.0.0.1:$PORT" --cookie-refresh 10s --provider-ca-file "$CA"

import jwt


class Verifier:
    """Make one of these and keep it: it holds the key set, and fetches it again when it meets a new key."""

    def __init__(self, issuer, audience, key_set=None):
        self.issuer, self.audience = issuer, audience
        self.keys = jwt.PyJWKClient(key_set or f"{issuer}/.well-known/jwks.json")

    def verify(self, token):
        key = self.keys.get_signing_key_from_jwt(token)
        decoded = jwt.decode_complete(
            token,
            key,
            algorithms=["RS256", "ES256"],
            issuer=self.issuer,
            audience=self.audience,
            leeway=60,  # clocks may differ by a minute (keys.clock_skew)
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        if decoded["header"].get("typ") != "at+jwt":
            raise jwt.InvalidTokenError("this is no access token")
        return decoded["payload"]

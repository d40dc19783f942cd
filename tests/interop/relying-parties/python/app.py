import os
import secrets

from authlib.integrations.flask_client import OAuth
from flask import Flask, redirect, session, url_for

app = Flask(__name__)
app.secret_key = os.environ["SESSION_SECRET"]
# Tokens stay on the server; the cookie holds the key. Several processes need a store that they share.
tokens = {}


def load(name):
    return tokens.get(session.get("id"))


def keep(name, token, refresh_token=None, access_token=None):
    tokens[session["id"]] = {**tokens.get(session["id"], {}), **token}


oauth = OAuth(app, fetch_token=load, update_token=keep)
oauth.register(
    "keyround",
    client_id=os.environ["CLIENT_ID"],
    client_secret=os.environ["CLIENT_SECRET"],
    server_metadata_url=os.environ["ISSUER"] + "/.well-known/openid-configuration",
    client_kwargs={"scope": "openid profile email offline_access", "code_challenge_method": "S256"},
)


@app.get("/login")
def login():
    return oauth.keyround.authorize_redirect(url_for("callback", _external=True))


@app.get("/callback")
def callback():
    token = oauth.keyround.authorize_access_token()
    session.clear()
    session["id"] = secrets.token_urlsafe()
    keep("keyround", token)
    return redirect("/")


@app.get("/")
def home():
    if load("keyround") is None:
        return redirect("/login")
    # Refreshes the access token when it is about to expire.
    answer = oauth.keyround.get(os.environ["API"])
    return answer.text, answer.status_code


@app.get("/logout")
def logout():
    token = tokens.pop(session.pop("id"))
    return oauth.keyround.logout_redirect(url_for("bye", _external=True), token["id_token"])


@app.get("/bye")
def bye():
    return "Logged out."

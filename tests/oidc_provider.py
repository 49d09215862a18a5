"""A real OpenID provider for tests (Canaille), and a person who logs in to it as a browser would.

Run as a program it is the provider: ``oidc_provider.py PORT FOLDER``. Its public keys lie in FOLDER as ``keys.json``.
"""

import datetime
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from ldap_server import free_port

PERSON, PASSWORD = "carol", "correct horse battery"
CLIENT, SECRET, BACK = "plugsky", "a secret of the client", "http://127.0.0.1:1/back"
OTHER_CLIENT = "wiki"


class OidcProvider:
    """The provider, running; ``issuer`` is its name, ``keys`` the file with its public keys."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="oidc", dir="/tmp"))
        self.keys = self.folder / "keys.json"
        port = free_port()
        self.issuer = f"http://127.0.0.1:{port}"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(port), self.folder], stdout=log, stderr=log,
                env={"PYTHONPATH": str(Path(__file__).parent), "AUTHLIB_INSECURE_TRANSPORT": "1"},
            )  # fmt: skip
        for _ in range(600):
            try:
                httpx.get(f"{self.issuer}/.well-known/openid-configuration", trust_env=False).raise_for_status()
            except httpx.HTTPError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
            else:
                return
        raise RuntimeError((self.folder / "log").read_text())

    def close(self):
        """End the provider."""
        self._process.terminate()
        self._process.wait()

    def tokens(self, client=CLIENT):
        """What a person who logs in now gets for the client: ``id_token`` and ``access_token``."""
        asked = {"response_type": "code", "client_id": client, "scope": "openid profile", "redirect_uri": BACK,
                 "nonce": "n" * 20}  # fmt: skip
        with httpx.Client(base_url=self.issuer, trust_env=False) as browser:
            page = browser.get("/oauth/authorize", params=asked)
            for _ in range(10):
                if page.is_redirect and page.headers["location"].startswith(BACK):
                    break
                page = browser.get(page.headers["location"]) if page.is_redirect else self._filled(browser, page)
            code = httpx.URL(page.headers["location"]).params["code"]
            body = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
            return browser.post("/oauth/token", data=body, auth=(client, SECRET)).raise_for_status().json()

    def _filled(self, browser, page):
        csrf = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)[1]
        known = {"login": PERSON, "password": PASSWORD}
        fields = {name: value for name, value in known.items() if f'name="{name}"' in page.text}
        return browser.post(page.url, data={"csrf_token": csrf, **fields})


def main(port, folder):
    """Be the provider until somebody ends it."""
    from canaille import create_app
    from canaille.app import models
    from canaille.backends import Backend
    from joserfc.jwk import ECKey, KeySet, RSAKey

    keys = [RSAKey.generate_key(2048, auto_kid=True), ECKey.generate_key("P-256", auto_kid=True)]
    (folder / "keys.json").write_text(json.dumps(KeySet(keys).as_dict(private=False)))
    access = {"PERMISSIONS": ["use_oidc"], "READ": ["user_name"], "WRITE": []}
    app = create_app(
        {
            "SECRET_KEY": "only for tests, and long enough",
            "SERVER_NAME": f"127.0.0.1:{port}",
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False, "ACL": {"DEFAULT": access}},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True) for key in keys]},
        }
    )
    now = datetime.datetime.now(datetime.UTC)
    with app.app_context():
        Backend.instance.save(
            models.User(
                user_name=PERSON,
                formatted_name="Carol",
                family_name="C",
                emails=["carol@example.com"],
                password=PASSWORD,
            )
        )
        for name in (CLIENT, OTHER_CLIENT):
            client = models.Client(
                client_id=name, client_secret=SECRET, client_id_issued_at=now, client_name=name,
                client_secret_expires_at=now + datetime.timedelta(days=1), client_uri="http://127.0.0.1",
                redirect_uris=[BACK], grant_types=["authorization_code"], response_types=["code"],
                token_endpoint_auth_method="client_secret_basic", scope=["openid", "profile"],
            )  # fmt: skip
            Backend.instance.save(client)
            client.audience = [client]
            Backend.instance.save(client)
    app.run(port=port)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

"""Debian's OpenLDAP, started for tests on ports of its own, with TLS and a few people."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from appliance.certificates import Authority

SLAPD = Path("/usr/sbin/slapd")
BASE = "dc=example"
GROUP = f"cn=plugsky,{BASE}"
BIND = f"uid={{name}},ou=people,{BASE}"
FILTER = f"(&(uid={{name}})(memberOf={GROUP}))"
PASSWORDS = {"alice": "correct horse bättery", "bob": "staple staple 12"}
"""The people. Alice is in the group, Bob is not."""

_CONFIG = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
TLSCACertificateFile {folder}/authority.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
database mdb
suffix "dc=example"
rootdn "cn=root,dc=example"
rootpw secret
directory {folder}/data
overlay memberof
access to attrs=userPassword by anonymous auth by self write by * none
access to * by users read by * none
"""

_PEOPLE = f"""\
dn: {BASE}
objectClass: domain
dc: example

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people
"""

_PERSON = """
dn: uid={name},ou=people,dc=example
objectClass: inetOrgPerson
cn: {name} Ä
sn: {name}
uid: {name}
userPassword: {password}
"""

_GROUP = f"""
dn: {GROUP}
objectClass: groupOfNames
cn: plugsky
member: {BIND.format(name="alice")}
"""


def installed():
    """Whether the server and its tools are here."""
    return SLAPD.exists() and all(map(shutil.which, ("ldapsearch", "ldapmodify")))


class LdapServer:
    """A server that is started when it is made. ``authority`` vouches for its certificate, for 127.0.0.1.

    It also listens on 127.0.0.2, for which the certificate is not.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ldap", dir="/tmp"))
        authority = Authority(self.folder)
        self.authority = authority.path
        authority.sign("server")
        (self.folder / "data").mkdir()
        (self.folder / "slapd.conf").write_text(_CONFIG.format(folder=self.folder))
        self.port, self.plain_port = free_port(), free_port()
        self.url, self.plain_url = f"ldaps://127.0.0.1:{self.port}", f"ldap://127.0.0.1:{self.plain_port}"
        self.other_url = f"ldaps://127.0.0.2:{self.port}"
        self._urls = self.url, self.plain_url, self.other_url
        self.start()
        people = [_PERSON.format(name=name, password=password) for name, password in PASSWORDS.items()]
        self.modify(_PEOPLE + "".join(people) + _GROUP, "-a")

    def start(self):
        """Start the server, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [SLAPD, "-f", self.folder / "slapd.conf", "-h", " ".join(self._urls), "-d", "0"],
                stdout=log, stderr=log,
            )  # fmt: skip
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except ConnectionRefusedError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self):
        """End the server."""
        self._process.terminate()
        self._process.wait()

    def close(self):
        """End the server and remove what it kept."""
        self.stop()
        shutil.rmtree(self.folder)

    def modify(self, ldif, *options):
        """Change entries, as the directory's administrator would."""
        subprocess.run(
            ["ldapmodify", "-x", "-H", self.plain_url, "-D", f"cn=root,{BASE}", "-w", "secret", *options],
            input=ldif.encode(), check=True, capture_output=True,
        )  # fmt: skip

    def let_in(self, name, *, let=True):
        """Put somebody into the group that may log in, or take them out of it."""
        change = "add" if let else "delete"
        self.modify(f"dn: {GROUP}\nchangetype: modify\n{change}: member\nmember: {BIND.format(name=name)}\n")


def free_port():
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

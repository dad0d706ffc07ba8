"""mail.py CERTIFICATE KEY USER PASSWORD [plain]: a mail server that wants STARTTLS and a login (plain: offers neither). It prints its port, then
each mail as a line of JSON; it ends when its standard input does."""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

certificate, key, user, password = sys.argv[1:5]
plain = sys.argv[5:] == ["plain"]


class Kept:
    async def handle_DATA(self, server, session, envelope):
        said = {
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": session.ssl is not None,
            "login": session.authenticated, "content": envelope.content.decode("utf-8", "replace"),
        }
        print(json.dumps(said), flush=True)
        return "250 kept"


def login(server, session, envelope, mechanism, data):
    given = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode())
    return AuthResult(success=given == (user, password), handled=False)


def connection():
    if plain:
        return SMTP(Kept())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return SMTP(Kept(), tls_context=context, require_starttls=True, authenticator=login, auth_required=True)


async def serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


asyncio.run(serve())

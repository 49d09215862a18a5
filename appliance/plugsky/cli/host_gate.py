"""What a generation has to do on a host before a switch to it counts: answer, through its own units.

The gateway answers on its control socket. Each model's engine comes up on its own socket with the file that was signed;
one that generates says something that can be seen. A model that finds no memory is refused with the numbers, as every
day, and that says nothing about the generation. Nothing is asked over TCP and no key is needed.
"""

import asyncio
from typing import Final

from plugsky.admin.gateway_client import GatewayClient
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Message, Params
from plugsky.core.ids import new_id
from plugsky.core.paths import SitePaths
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import DoesNotFitError
from plugsky.fleet.generations import Generation
from plugsky.models import catalogue
from plugsky.models.catalogue import ModelEntry

GATEWAY_S: Final = 60.0
ENGINE_S: Final = 300.0
TOKENS: Final = 8
TENANT: Final = "site"
"""Whose prefix tree the questions of the gate are in: nobody's key can be of a tenant without a record of its own."""
_PAUSE_S: Final = 0.2


def answers(paths: SitePaths, generation: Generation) -> str:
    """Why ``generation`` does not answer; empty where it does."""
    try:
        asyncio.run(_ask(paths, generation))
    except PlugskyError as error:
        return f"{error.what}: {error.why}" if error.why else error.what
    return ""


async def _ask(paths: SitePaths, generation: Generation) -> None:
    await _gateway(paths)
    for entry in catalogue.models(paths, generation.number):
        await _engine(paths, entry)


async def _gateway(paths: SitePaths) -> None:
    deadline = asyncio.get_running_loop().time() + GATEWAY_S
    while True:
        client = GatewayClient(paths.gateway_socket)
        try:
            async with asyncio.timeout_at(deadline):
                await client.traffic()
        except TimeoutError:
            raise _silent("The gateway", f"it did not answer within {GATEWAY_S:g} s") from None
        except PlugskyError as error:
            if error.kind is not ErrorKind.UNREACHABLE or asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return
        finally:
            await client.close()


async def _engine(paths: SitePaths, entry: ModelEntry) -> None:
    client = EngineClient(paths.engine_socket(entry.id))
    try:
        async with asyncio.timeout(ENGINE_S):
            hello = await client.connect(ENGINE_S)
            if hello.digest != entry.sha256:
                raise _silent(f"The model {entry.id}", "its engine has another file than the generation")
            if entry.mode == "generate":
                await _says_something(client, entry)
    except DoesNotFitError:
        return
    except TimeoutError:
        raise _silent(f"The model {entry.id}", f"it did not answer within {ENGINE_S:g} s") from None
    finally:
        await client.close()


async def _says_something(client: EngineClient, entry: ModelEntry) -> None:
    prepared = await client.prepare(tenant=TENANT, messages=(Message("user", "What is the capital of France?"),))
    running = client.submit(
        job=new_id(),
        tenant=TENANT,
        tokens=prepared.tokens,
        params=Params(temperature=0.0),
        max_tokens=TOKENS,
        service_class="interactive",
    )
    said = ""
    async for item in running:
        said += item.text
    running.acknowledge()
    if not said.strip():
        raise _silent(f"The model {entry.id}", "its answer to a short question is empty")


def _silent(who: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.ENGINE_LOST, f"{who} does not answer", why=why)

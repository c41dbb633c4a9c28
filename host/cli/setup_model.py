"""The steps of `nanoclaw setup` about the model: a key, or a server of one's own; and the model's name there."""

from __future__ import annotations

from host import credentials
from host.cli.out import note
from host.cli.questions import hidden, line, say, yes
from host.cli.setup_walk import Walk
from host.credentials import DEFAULT_URL
from host.credentials.dotenv import API_KEY, AUTH_TOKEN, BASE_URL
from host.errors import UserError
from host.model import Endpoint
from host.setup import key as keys
from host.setup import server

SHOWN = 20
"""Most names of models in a list; another can be typed."""
USUAL = "http://127.0.0.1:11434"


def access(walk: Walk) -> None:
    """Where the model answers, and the key for it. Both are written together: a key is told to its endpoint only."""
    args = walk.args
    if args.url is not None or args.key_file is not None:
        key = keys.from_file(args.key_file) if args.key_file is not None else None
        own = credentials.endpoint(args.url) if args.url is not None else walk.endpoint() or default()
        _set(walk, own, key, asked=args.url is not None)
    elif walk.asks:
        say(f"  now: {_now(walk)}")
        say("   1  Anthropic's, with a key of yours")
        say("   2  a server of your own, which speaks the Anthropic Messages API")
        say("   3  none: a rehearsal script answers, which is no AI")
        match line("[Enter] keep, or 1, 2, 3"):
            case "":
                return
            case "1":
                _anthropics(walk)
            case "2":
                _own(walk)
            case "3":
                _none(walk)
            case _:
                raise UserError("that is none of them")


def default() -> Endpoint:
    return credentials.endpoint(None)


def _now(walk: Walk) -> str:
    endpoint, has_key = walk.endpoint(), bool(walk.credentials().secrets)
    if endpoint is None:
        return "none, a rehearsal script"
    return f"{endpoint.base_url}, {'with a key' if has_key else 'without a key'}"


# --- by a person ----------------------------------------------------------------------------------------


def _anthropics(walk: Walk) -> None:
    kept = walk.endpoint() == default() and walk.credentials().secrets
    typed = hidden(f"The key (it is not shown){'; [Enter] keep the one that is there' if kept else ''}:")
    if not typed:
        if not kept:
            raise UserError("no key was typed", "one is made at the console of your account with Anthropic")
        return
    key = keys.parsed(typed, "what you typed")
    doubt = keys.doubt(key[1], anthropics=True)
    if doubt and not yes(f"Is that a key? {doubt[0].upper()}{doubt[1:]}. Use it all the same?", default=False):
        raise UserError("it was not used")
    _write(walk, default(), key)


def _own(walk: Walk) -> None:
    present = walk.endpoint()
    offered = present.base_url if present and present != default() else USUAL
    own = credentials.endpoint(line(f"Its address? [Enter] {offered}") or offered)
    if own == default():
        _anthropics(walk)
        return
    answer = _asked(walk, own)
    if answer.fault:
        say(f"  {answer.fault}")
        say(f"  → {answer.hint}")
        if not yes("Use that address all the same?", default=False):
            raise UserError("it was not used")
    same = present == own and bool(walk.credentials().secrets)
    needs = "It asks for a key" if answer.wants_key else "If it takes a key"
    typed = hidden(f"{needs}: type it (not shown); [Enter] {'keep the one that is there' if same else 'none'}:")
    if typed or same:
        _write(walk, own, keys.parsed(typed, "what you typed") if typed else None)
    elif _leave_key(walk):
        _write(walk, own, (API_KEY, ""))


def _none(walk: Walk) -> None:
    if _leave_key(walk):
        walk.set_env(**{API_KEY: "", AUTH_TOKEN: "", BASE_URL: ""})


def _leave_key(walk: Walk) -> bool:
    """A key that is there is told to nobody else, and may be the only copy."""
    env = walk.home.config / ".env"
    return not walk.credentials().secrets or yes(
        f"The key in {env} is another endpoint's, and is not told to this one. Take it out of the file?", default=False
    )


# --- both -----------------------------------------------------------------------------------------------


def _set(walk: Walk, own: Endpoint, key: tuple[str, str] | None, *, asked: bool) -> None:
    """As the command line says. Without a person to ask, what is doubtful is refused."""
    env = walk.home.config / ".env"
    if key is None and walk.credentials().secrets and walk.endpoint() != own:
        raise UserError(
            f"{env} holds a key for another endpoint, which is not told to {own.base_url}",
            "take its line out first; or give the key that this one takes: --key-file",
        )
    if key is not None and (doubt := keys.doubt(key[1], anthropics=own == default())):
        raise UserError(f"the key does not look like one: {doubt}", f"if it is right, write it into {env} yourself")
    if asked and own != default():
        answer = _asked(walk, own)
        if answer.fault:
            raise UserError(answer.fault, answer.hint)
        if answer.wants_key and key is None and not walk.credentials().secrets:
            raise UserError(f"{own.base_url} asks for a key", "give it: --key-file FILE")
    _write(walk, own, key)


def _asked(walk: Walk, own: Endpoint) -> server.Answer:
    walk.progress(f"asking {own.host}:{own.port} …")
    walk.server = server.ask(own, walk.config.ca_file)
    walk.progress.clear()
    return walk.server


def _write(walk: Walk, own: Endpoint, key: tuple[str, str] | None) -> None:
    """`key`: None keeps the one that is there, which is this endpoint's; an empty one takes it out."""
    values = {BASE_URL: "" if own == default() else own.base_url}
    if key is not None:
        values |= {API_KEY: "", AUTH_TOKEN: "", key[0]: key[1]}
    walk.set_env(**values)
    if walk.credentials().secrets and not own.tls and not credentials.is_here(own):
        note(f"the key goes to {own.host} in the clear: http:// is for this machine, or a network that you trust")


# --- the model's name -------------------------------------------------------------------------------------


def model(walk: Walk) -> None:
    given, now, endpoint = walk.args.model, walk.config.model, walk.endpoint()
    if given is None and endpoint is None:
        if walk.asks:
            say("  the rehearsal script has none")
        return
    if walk.asks and given is None and walk.server is None and endpoint is not None and endpoint != default():
        _asked(walk, endpoint)
    listed = walk.server.models if walk.server else ()
    if given is None and walk.asks:
        given = _chosen(listed, now)
    elif given is None and listed and now not in listed:
        given = _only(listed, now)
    if given:
        walk.set("model.name", given, now)


def _chosen(listed: tuple[str, ...], now: str) -> str:
    for number, each in enumerate(listed[:SHOWN], 1):
        say(f"  {number:2}  {each}")
    if len(listed) > SHOWN:
        say(f"      and {len(listed) - SHOWN} more")
    kept = listed[0] if listed and now not in listed else now
    typed = line(f"[Enter] {kept}, or {'a number, or ' if listed else ''}another name")
    if typed.isdecimal() and 1 <= int(typed) <= len(listed[:SHOWN]):
        return listed[int(typed) - 1]
    return typed or kept


def _only(listed: tuple[str, ...], now: str) -> str | None:
    """With nobody to ask: the one that there is; of several, none is taken for the person."""
    if len(listed) == 1:
        note(f"the model is {listed[0]}: the server has no other")
        return listed[0]
    note(f"the server does not list {now}; it has: {', '.join(listed[:SHOWN])} (choose by --model)")
    return None


def costs(walk: Walk) -> str:
    """What a first reply means, in words."""
    endpoint = walk.endpoint()
    if endpoint is None:
        return "the rehearsal script answers, and nothing is sent anywhere"
    paid = ", which your key pays for" if walk.credentials().secrets else ""
    return f"that is one real request to {DEFAULT_URL if endpoint == default() else endpoint.base_url}{paid}"

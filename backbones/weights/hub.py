"""Hugging Face: addresses of files, the token that opens gated ones, and their names in the cache.

`HF_ENDPOINT` names another server (a mirror), `HF_TOKEN` the token, as in Hugging Face's own tools.
"""

from __future__ import annotations

import hashlib
import os
import re
from urllib.parse import quote, unquote, urlsplit

ENDPOINT = 'https://huggingface.co'
TOKENS_PAGE = 'https://huggingface.co/settings/tokens'
FORM = "give hf://org/repo/file or hf://org/repo/file@revision, such as 'hf://timm/convnext_base.fb_in22k/model.safetensors'"


def endpoint() -> str:
    """Address of the server, without a slash at the end."""
    return (os.environ.get('HF_ENDPOINT') or ENDPOINT).rstrip('/')


def address(checkpoint: str) -> str:
    """Give the web address of `hf://org/repo/file@revision` or `timm://name@revision`; the revision is 'main'.

    `timm://name` is `hf://timm/name/model.safetensors`, where timm keeps its model of that name.

    Raises:
        ValueError: if it has another form.
    """
    scheme, _, rest = checkpoint.partition('://')
    rest, _, revision = rest.partition('@')
    if scheme == 'timm':
        if not re.fullmatch(r'[\w-]+\.[\w.-]+', rest):
            raise ValueError(
                f'checkpoint {checkpoint!r} is no name of a timm model with its weights; give both, as in '
                "'timm://convnext_base.fb_in22k' (timm.list_pretrained() lists them)"
            )
        rest = f'timm/{rest}/model.safetensors'
    parts = rest.split('/')
    is_file = len(parts) >= 3 and not any(part in ('', '.', '..') for part in parts)
    if not is_file or not all(re.fullmatch(r'[\w.-]+', part) for part in parts[:2]):
        raise ValueError(f'checkpoint {checkpoint!r} names no file on Hugging Face; {FORM}')
    org, repo, *path = parts
    return f'{endpoint()}/{org}/{repo}/resolve/{quote(revision or "main", safe="")}/{quote("/".join(path))}'


def is_hub(url: str) -> bool:
    """Whether an address is on the server that `HF_TOKEN` is for."""
    return (_origin(url), urlsplit(url).path.startswith(urlsplit(endpoint()).path)) == (_origin(endpoint()), True)


def headers(url: str) -> dict[str, str]:
    """Give the header with the token for an address on the server, and nothing for any other."""
    token = os.environ.get('HF_TOKEN', '').strip()
    return {'Authorization': f'Bearer {token}'} if token and is_hub(url) else {}


def page(url: str) -> str | None:
    """Give the page of the model that a file belongs to; None if it is not on Hugging Face."""
    found = _parts(url)
    return f'{endpoint()}/{found[0]}/{found[1]}' if found else None


def cache_name(url: str) -> str | None:
    """Name a file of Hugging Face for the cache, whatever the endpoint: `org--repo--revision--file`; None for others.

    No name on Hugging Face holds '--' but those of files and revisions; a digest keeps these apart.
    """
    found = _parts(url)
    if found is None:
        return None
    name = '--'.join(part.replace('/', '--') for part in found)
    if '/' in found[2] or '--' in found[2] + found[3]:
        name = f'{hashlib.sha256("/".join(found).encode()).hexdigest()[:12]}_{name}'
    return name


def _parts(url: str) -> tuple[str, str, str, str] | None:
    """Split an address into organisation, repository, revision and file."""
    for base in (endpoint(), ENDPOINT):
        if url.startswith(f'{base}/'):
            found = re.fullmatch(r'([^/]+)/([^/]+)/resolve/([^/]+)/(.+)', urlsplit(url[len(base) + 1 :]).path)
            return tuple(unquote(part) for part in found.groups()) if found else None
    return None


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address: a browser's measure of what one server is."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or '').lower(), parts.port or {'http': 80, 'https': 443}.get(parts.scheme)

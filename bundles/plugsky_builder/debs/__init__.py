"""Debian packages for a host that is not the build machine: resolved, fetched, proven, examined, signed anew.

In this order, one module each: `recipe_part` (what a recipe asks), `releases` (what is known of a release), `upstream`
(Debian's signed indexes, verified), `closure` (apt resolves in a private root), `lock` (the answer, for review) and
`renewal` (making it), `state` (the state of Debian that vouches for a lock), `fetching` (by SHA-256 into the cache),
`archive` and `lint` (what a .deb holds), `order` (how dpkg takes them), `repository` and `openpgp` (our own signed flat
repository), `parts` (all of it, for a recipe).
"""

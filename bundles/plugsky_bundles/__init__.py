"""The trust kernel: what a bundle is, who may have made it, and what may be done with it.

This room is auditable alone. It imports the standard library, `cryptography`, `securesystemslib`, `tuf.api` and nothing
else of Plugsky; it opens no connection, prints nothing and ends no process. The way of the data, with one module
for each arrow:

```
keys, ceremony            trust init: keys, the first root, the custody log       -> trustdir.TrustDir
drafting, role_reuse      entries -> unsigned role files, or those signed before  -> drafting.Draft
signing                   sign, by k of n people                                  -> signing.Signed
sealing                   seal: snapshot and timestamp                            -> sealing.Sealed, on media
media                     a directory, volumes or a stream, read without detours   -> media.Bundle
walk on metadata          the TUF workflow, offline; no file is opened here
entries, verify           names, chunk lists, the exact set, revocations          -> verified.VerifiedBundle
full_read, forward_read   every byte, for people who want that before they install
carrying, splitting, streaming, mending   a verified bundle on its way: copied and read back, split, streamed, repaired
plan, transfer            VerifiedBundle -> Plan -> files in a site's store, in one read
receipt                   what a site holds, signed by it                         -> receipt.Receipt, for the next delta
difference                two sides -> what changes, for who approves it          -> difference.Difference
```

A delta leaves out what its sites hold: `since` says what, `taking_out` does it when it is sealed, and `trusted_copies`
(read back by `kept`) are what both ends keep of the metadata before it. `sealed_history` and `receipt` say what a delta
may build on; `sides` reads the small parts of a bundle or a site that are worth comparing.

Below them, pure: `format` (names, chunks, ids), `state` (what a site believes), `strict_json` (one way to write, bounds
to read), `dsse`, `times`, `chain_lines`. `chain` and `chain_verify` are the hash-chained signed log that custody and
the audit of a site share. `gguf` reads model files within bounds and `cut` says where they are cut. `atomic` writes
files that are wholly there or not at all. Every refusal is a class in `errors`; doubt is always exit code 5.

The bytes of all this are described in `docs/formats.md`, precisely enough to write another verifier.
"""

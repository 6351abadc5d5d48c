# Every recipe is one step of the gate; `tests/run` holds the rings, so that it works without `just` too.

# what can be done here
list:
    @just --list --unsorted

# rewrite the sources in the one style
fmt:
    cargo fmt --all

# style, clippy without a warning, and (where it is installed) the rules of deny.toml
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; fi

# all default rings, or the named ones: `just test it`
test *RING:
    tests/run {{RING}}

# ours beside Envoy, HAProxy, nginx and floors, the whole of it: up to 45 minutes on a machine without other work
bench:
    tests/run bench

# make the checked-in generated code anew
gen:
    LACEWING_GEN=1 cargo test -p lacewing-tests --test it generated_code_is_fresh

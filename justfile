# Short names for the scripts; nothing needs `just`.

# Format, lints, documentation, licences
check:
    scripts/check

# All tests
test:
    scripts/test

# Suites that others wrote, on real mounts
suites *args:
    scripts/suites {{args}}

# Arbitrary bytes for every decoder
fuzz *args:
    scripts/fuzz {{args}}

# The death tests, many times in a row beside all others
crash rounds="20":
    scripts/test crash {{rounds}}

# Workers are killed, many times, while programs use their mounts
chaos *args:
    scripts/chaos {{args}}

# The benchmarks
bench *args:
    scripts/bench {{args}}

# Selvedge beside the host's directory and its peers
perf *args:
    scripts/perf {{args}}

# The main job on this checkout
demo *args:
    scripts/demo {{args}}

fmt:
    cargo fmt --all

# `make demo` shows it at work. `make test` does everything on a fresh machine; `make unit` runs what needs no engine.
# What the tests compile is kept, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := .venv/bin/pytest -q -p no:cacheprovider $(if $(SEED),--randomly-seed=$(SEED))
CHECKED := backup tests benchmarks demo entrypoint.py tools/select-tests tools/changelog

.PHONY: demo demo-down test t fast unit fuzz soak lint prepare image engine venv lock docs bench screenshots changelog clean

# A small stack is backed up, damaged and restored before your eyes. With S3=1 there are copies in an object store, too.
demo:
	demo/run up $(if $(filter-out 0,$(S3)),--s3)

demo-down:
	demo/run down

# In lanes that fail fast, each with its time: lint, unit, contract, integration, e2e.
test:
	@tools/lanes

# What matches, with what it needs: make t T=test_prune
t: venv
	@tools/select-tests '$(T)'

# In seconds: lint and types, the pure rules, the tests of what changed since main.
fast: venv
	.venv/bin/ruff check -q $(CHECKED)
	.venv/bin/ruff format --check -q $(CHECKED)
	tools/fast

# Without the tests that take more than half of the time, and with fewer examples; `make test` runs those, too.
unit: venv
	$(if $(LONG),,HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-quick}) $(PYTEST) -n 2 --dist worksteal $(if $(LONG),,-m "not long") tests/unit tests/test_architecture.py

# The long search, outside CI. SEED repeats a round.
fuzz: venv
	MINUTES=$(or $(MINUTES),60) SEED=$(SEED) tools/fuzz

lint: venv
	.venv/bin/ruff check $(CHECKED)
	.venv/bin/ruff format --check $(CHECKED)
	.venv/bin/mypy

# What the tests run on: an engine, servers of three versions, the scheduler, a browser, the image itself.
prepare: engine venv
	tools/supercronic
	tools/test-images
	tools/test-programs
	tools/build

engine:
	tools/engine

venv:
	@tools/venv

image: engine
	tools/build

# In half an hour, on a machine with nothing else to do: benchmarks/RESULTS.md, and an error where it is worse than before.
bench: prepare
	code=0; .venv/bin/python -m benchmarks.run || code=1; \
	for each in restore drill; do SHAPE=application .venv/bin/python -m benchmarks.$$each || code=1; done; exit $$code

# Everything at once, at random, for hours: make soak MINUTES=120 SEED=n; PLANT=row|file|byte is a loss it must see.
soak: prepare
	@.venv/bin/python -u -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
	    $(if $(PLANT),--plant $(PLANT))

# The pictures of the status page in docs/screenshots.
screenshots: venv
	tools/test-programs
	.venv/bin/python -m tests.support.screenshots

# docs/configuration.env from the settings, docs/schema from the JSON documents.
docs: venv
	.venv/bin/python -m tests.support.reference
	.venv/bin/python -m tests.support.schemas

# After a change of the dependencies in pyproject.toml.
lock: venv
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links pyproject.toml -o requirements.lock
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links -c requirements.lock --group dev pyproject.toml -o requirements-dev.lock
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links demo/requirements.in -o demo/requirements.lock

# At a release, after the version in backup/__init__.py: the fragments of changelog.d become its section of CHANGELOG.md.
changelog:
	@tools/changelog

# Containers, volumes and networks that interrupted tests left, by label.
clean:
	tools/clean

# `make demo` shows it at work. `make test` does everything on a fresh machine; `make unit` runs what needs no engine.
PYTEST := .venv/bin/pytest -q -p no:cacheprovider
CHECKED := backup tests benchmarks demo entrypoint.py

.PHONY: demo demo-down test unit lint prepare image engine venv lock docs bench screenshots clean

# A small stack is backed up, damaged and restored before your eyes. With S3=1 there are copies in an object store, too.
demo:
	demo/run up $(if $(filter-out 0,$(S3)),--s3)

demo-down:
	demo/run down

test: prepare lint
	$(PYTEST) -n 3 --dist loadfile --timeout=600 --durations=15 tests

unit: venv
	$(PYTEST) tests/unit tests/test_architecture.py

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

bench: prepare
	.venv/bin/python benchmarks/run.py

# The pictures of the status page in docs/screenshots.
screenshots: venv
	tools/test-programs
	.venv/bin/python -m tests.support.screenshots

# docs/configuration.env from the settings.
docs: venv
	.venv/bin/python -m tests.support.reference

# After a change of the dependencies in pyproject.toml.
lock: venv
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links pyproject.toml -o requirements.lock
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links -c requirements.lock --group dev pyproject.toml -o requirements-dev.lock
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links demo/requirements.in -o demo/requirements.lock

# Containers, volumes and networks that interrupted tests left, by label.
clean:
	tools/clean

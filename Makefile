# make demo              set up, then plan, train, fit and draw the demo study on this machine's CPU
# make study STUDY=batch the same for another study of studies/
# make sampling          train a run, then compare samplers on it
# make test              set up, then run the tests
PYTHON ?= python3.11
BIN := .venv/bin
OUT ?= runs
STUDY ?= demo

.PHONY: demo study sampling test test-slow faults lint bench bench-head bench-runs bench-compiler bench-sampling lock clean

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: STUDY := demo
demo: study

study: .venv/installed
	$(BIN)/triptych data build embedded/text embedded/image embedded/audio
	$(BIN)/triptych plan studies/$(STUDY)/study.yaml
	$(BIN)/triptych run studies/$(STUDY)/study.yaml --out $(OUT)
	$(BIN)/triptych fit $(OUT)/$(STUDY)
	$(BIN)/triptych report $(OUT)/$(STUDY)

# Trains the run of studies/sampling, then compares samplers on it, and judges the defaults
sampling: .venv/installed
	$(BIN)/triptych data build embedded/text embedded/image embedded/audio
	$(BIN)/triptych run studies/sampling/study.yaml --out $(OUT)
	for study in sampler reading quality; do \
	  $(BIN)/triptych run studies/sampling/$$study.yaml --out $(OUT) && \
	  $(BIN)/triptych fit $(OUT)/$$study && $(BIN)/triptych report $(OUT)/$$study || exit; \
	done

test: .venv/installed
	$(BIN)/python -m pytest

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# Hundreds of faults on small studies, some half an hour on two cores. FAULTS="--faults 40 --kinds worker,full" does
# less; root may also fill disks and mount folders read-only.
faults: .venv/installed
	$(BIN)/python -m tests.faults $(FAULTS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed
	$(BIN)/python -m tests.benchmarks.trainer
	$(BIN)/python -m tests.benchmarks.llama3

# The pilot's shape, 8,192 tokens a step: some ten minutes each, and 20 GB
bench-head: .venv/installed
	$(BIN)/python -m tests.benchmarks.head --micro 4 --accumulation 2
	$(BIN)/python -m tests.benchmarks.head --checkpoint full

# What checkpoints and rows cost a run; 1,000 runs submitted to Slurm, the status of 10,000
bench-runs: .venv/installed
	$(BIN)/python -m tests.benchmarks.checkpoints
	$(BIN)/python -m tests.benchmarks.cluster

# The sampler beside a plain loop, on the run of `make sampling`
bench-sampling: .venv/installed
	$(BIN)/python -m tests.benchmarks.sampling $(OUT)/sampling --judge

# hydra-core wants an omegaconf of its own
bench-compiler: .venv/installed
	test -x .venv/hydra/bin/python || ($(PYTHON) -m venv .venv/hydra && .venv/hydra/bin/pip install --quiet hydra-core==1.3.8)
	$(BIN)/python -m tests.benchmarks.compiler

# Versions are chosen here and nowhere else.
lock: .venv/installed
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --allow-unsafe --no-header --no-emit-index-url \
	  --no-emit-find-links --no-emit-options --no-emit-trusted-host --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv runs build *.egg-info

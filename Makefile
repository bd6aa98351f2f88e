# One environment for the whole workspace; every target makes it first if it is not there.

UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN = $(UV) run --frozen --no-sync
DEMO_PHOTO = $(shell $(RUN) python -c "import skimage, pathlib; print(pathlib.Path(skimage.__file__).parent / 'data' / 'chelsea.png')")

.PHONY: help setup demo test lint format bench wheels reproduce-check reproduce-%

help:  ## list the targets
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup:  ## install everything into .venv (and uv itself, where it is missing)
	@$(UV) --version >/dev/null 2>&1 || (python3 -m venv .uv && .uv/bin/pip install --quiet uv)
	@$(UV) sync --frozen --all-packages --all-extras --quiet

demo: setup  ## upscale a photograph four times with the embedded weights, into demo/
	$(RUN) lowvis-pan upscale "$(DEMO_PHOTO)" -o demo --scale 4 --compare --overwrite

test: setup  ## run all tests, on two processes
	OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist loadgroup

lint: setup  ## check style, types and the lock file
	$(UV) lock --check --quiet
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) pyright

format: setup  ## put the code into its standard form
	$(RUN) ruff check --fix
	$(RUN) ruff format

reproduce-check: setup  ## prove that results, tables and READMEs agree
	$(RUN) python -m lowvis_shared.reproduce check

reproduce-%: setup  ## reproduce the table of a paper, such as reproduce-pan
	$(RUN) lowvis-$* reproduce

bench: setup  ## measure the speed of every package against the plain design
	$(RUN) python benchmarks/pan_speed.py
	$(RUN) python benchmarks/aim2020_speed.py
	$(RUN) python benchmarks/csrnet_speed.py
	$(RUN) python benchmarks/srga_speed.py
	$(RUN) python benchmarks/srga_sensitivity.py
	$(RUN) python benchmarks/classsr_speed.py

wheels: setup  ## build the wheel of every package into dist/
	$(UV) build --all-packages --wheel --quiet

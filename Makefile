# Each target makes its own virtual environment when there is none, and reuses it afterwards.
PYTHON ?= python3
VENV ?= .venv
FLOOR_VENV ?= .venv-floor
TORCH ?= torch==2.13.0
LAUNCH = $(VENV)/bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(shell getconf _NPROCESSORS_ONLN)

.PHONY: demo demo-vqa demo-classification demo-reasoning demo-grounding demo-pretraining easy-vqa test test-floor slow mutants lint docs clean

demo: $(VENV)/ready
	$(LAUNCH) run_retrieval.py configs/demo_retrieval.yaml --use_cpu --overwrite_output_dir

demo-vqa: $(VENV)/ready
	$(LAUNCH) run_vqa.py configs/demo_vqa.yaml --use_cpu --overwrite_output_dir

# starts from the model of demo-vqa, which is trained where it is not there
demo-classification: $(VENV)/ready output/demo_vqa/config.json
	$(LAUNCH) run_classification.py configs/demo_classification.yaml --use_cpu --overwrite_output_dir

# likewise
demo-reasoning: $(VENV)/ready output/demo_vqa/config.json
	$(LAUNCH) run_classification.py configs/demo_reasoning.yaml --use_cpu --overwrite_output_dir

output/demo_vqa/config.json:
	$(MAKE) demo-vqa

demo-grounding: $(VENV)/ready
	$(LAUNCH) run_grounding.py configs/demo_grounding.yaml --use_cpu --overwrite_output_dir

demo-pretraining: $(VENV)/ready
	$(LAUNCH) run_pretraining.py configs/demo_pretraining.yaml --use_cpu --overwrite_output_dir

easy-vqa: $(VENV)/ready
	$(LAUNCH) run_vqa.py configs/easy_vqa.yaml --use_cpu --overwrite_output_dir

# a process a core, a thread a process: most of the time goes into starting scripts
test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(shell getconf _NPROCESSORS_ONLN) --dist loadfile

# golden, modelling, trainer, Hub, pipeline and processing tests with the oldest libraries that setup.cfg allows
test-floor: $(FLOOR_VENV)/ready-floor
	OMP_NUM_THREADS=1 $(FLOOR_VENV)/bin/python -m pytest -n $(shell getconf _NPROCESSORS_ONLN) --dist loadfile \
		tests/test_floors.py tests/modeling_albef/test_*.py tests/modeling_albef/training tests/processing

slow: $(VENV)/ready
	$(VENV)/bin/python -m pytest -m slow

# small changes to the code one by one, 400 drawn at random: prints those that no test notices
mutants: $(VENV)/ready-mutants
	$(VENV)/bin/python -m benchmarks.mutants --sample 400

lint: $(VENV)/ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# the drawing, and the site in build/site, which opens without a server or a network; a warning is an error
docs: $(VENV)/ready-docs
	$(VENV)/bin/python docs/draw_data_flow.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

# torch first and pinned: what comes after is content with it
$(VENV)/ready: setup.cfg pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(TORCH)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $@

$(FLOOR_VENV)/ready-floor: setup.cfg pyproject.toml tests/floor_constraints.txt
	test -x $(FLOOR_VENV)/bin/python || $(PYTHON) -m venv $(FLOOR_VENV)
	$(FLOOR_VENV)/bin/python -m pip install --quiet $(TORCH)
	$(FLOOR_VENV)/bin/python -m pip install --quiet --constraint tests/floor_constraints.txt --editable '.[lora,search]' \
		pytest hypothesis pytest-xdist tensorboard
	touch $@

$(VENV)/ready-mutants: $(VENV)/ready
	$(VENV)/bin/python -m pip install --quiet --editable '.[mutants]'
	touch $@

$(VENV)/ready-docs: $(VENV)/ready
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR_VENV) mutants output build *.egg-info

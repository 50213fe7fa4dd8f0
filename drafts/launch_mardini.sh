cd /work/main; export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 setsid nohup chrt -i 0 .venv/bin/python -m torch.distributed.run --standalone --nproc-per-node ${1:-2} -m helpers.recipes.toy_mardini > /tmp/w/mardini.log 2>&1 &
sleep 10; for p in $(pgrep -f "helpers.recipes.toy_mardini"); do echo ${2:-19} > /proc/$p/autogroup; done

cd /work/main; export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 setsid nohup .venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 /tmp/w/unet.py > /tmp/w/unet.log 2>&1 &
sleep 12; for p in $(pgrep -f "/tmp/w/unet.py"); do echo -20 > /proc/$p/autogroup; done

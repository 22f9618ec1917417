"""What all tests share: nothing is fetched, whatever the machine can reach; threads wait as under the command line."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

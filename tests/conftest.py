"""What all tests share: nothing is fetched, whatever the machine can reach."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

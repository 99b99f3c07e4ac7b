"""`pplcnet reproduce` from a checkout: python tools/reproduce.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.cli.start import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))

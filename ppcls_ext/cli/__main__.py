"""`python -m ppcls_ext.cli` is `pplcnet`."""

import sys

from ppcls_ext.cli.start import main

if __name__ == "__main__":
    sys.exit(main())

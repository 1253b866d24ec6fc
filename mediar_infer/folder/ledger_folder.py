"""How the environment says where ledger and summary go."""

from typing import Final

LEDGER_VARIABLE: Final = "MEDIAR_LEDGER"
"""Environment variable that names the folder of ledger and summary, where no option does."""
NO_LEDGER: Final = "none"
"""Value of the variable, or of ``--ledger``, for neither of them."""

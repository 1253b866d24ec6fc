"""``python -m mediar_infer``."""

from mediar_infer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

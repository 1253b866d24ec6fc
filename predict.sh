#!/bin/sh
# The challenge's entry point: sh predict.sh, from the folder that holds predict.py.
# shellcheck disable=SC2086  # options that an image was built with
exec python predict.py ${MEDIAR_OPTIONS-} "$@"

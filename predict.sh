#!/bin/sh
# The challenge's entry point: sh predict.sh, from the folder that holds predict.py.
exec python predict.py "$@"

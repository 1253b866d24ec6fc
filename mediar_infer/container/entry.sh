#!/bin/sh
# Entry point of the container: options go to predict.py, anything else is run as a command, such as
# the challenge's /bin/bash -c "sh predict.sh".
#
# A container that starts as root drops to the owner of the mounted output folder, who then owns the
# results, unless that owner cannot write there or read the inputs.
set -eu

# shellcheck disable=SC2086  # options that an image was built with
case "${1-}" in
  '' | -*) set -- python -I /workspace/predict.py ${MEDIAR_OPTIONS-} "$@" ;;
esac

inputs=/workspace/inputs outputs=/workspace/outputs
if [ "$(id -u)" = 0 ] && owner=$(stat -c %u:%g "$outputs" 2>/dev/null) && [ "${owner%:*}" != 0 ]; then
  as_owner="setpriv --reuid=${owner%:*} --regid=${owner#*:} --clear-groups --no-new-privs"
  # shellcheck disable=SC2016,SC2086  # $1 and $2 of the inner shell; several options
  if $as_owner sh -c 'cd "$1" && test -w . && { test ! -e "$2" || { cd "$2" && test -r .; }; }' \
      sh "$outputs" "$inputs" 2>/dev/null; then
    exec $as_owner "$@"
  fi
fi
exec "$@"

#!/bin/sh
# Starts a container: options go to predict.py, anything else is a command of its own, such as the
# challenge's /bin/bash -c "sh predict.sh".
#
# A container that is started as root goes on as the owner of the mounted output folder, so that
# results belong to whoever started it, unless that owner could not write there either.
set -eu

case "${1-}" in
  # shellcheck disable=SC2086  # options that an image was built with
  '' | -*) set -- python /workspace/predict.py ${MEDIAR_OPTIONS-} "$@" ;;
esac

outputs=/workspace/outputs
if [ "$(id -u)" = 0 ] && owner=$(stat -c %u:%g "$outputs" 2>/dev/null) && [ "${owner%:*}" != 0 ]; then
  as_owner="setpriv --reuid=${owner%:*} --regid=${owner#*:} --clear-groups"
  # shellcheck disable=SC2086  # three options
  if $as_owner test -w "$outputs" 2>/dev/null; then
    exec $as_owner "$@"
  fi
fi
exec "$@"

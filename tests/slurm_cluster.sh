#!/usr/bin/env bash
# A SLURM cluster of two nodes on this one machine, for tests: partitions cpu and gpu, and on each node two GPUs that only SLURM
# believes in. Debian builds SLURM with --enable-multiple-slurmd, so that each node can have a slurmd of its own.
#
#   tests/slurm_cluster.sh install | start | stop | status        as root; `install` uses apt-get (Debian, Ubuntu)
#
# Its files lie in $SLURM_CLUSTER (default /tmp/magic123-slurm); /etc/slurm gets links to three of them while it runs, because
# snakemake's nested srun drops the variable that would name another place. No systemd is needed, no accounting is kept.
set -euo pipefail

home=${SLURM_CLUSTER:-/tmp/magic123-slurm}
host=$(hostname -s)
nodes=(one two)
configuration=(slurm.conf gres.conf cgroup.conf)

install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends slurm-wlm munge
}

configure() {
    mkdir -p "$home"/{etc,run,log,state,spool,devices} "${nodes[@]/#/$home/spool/}"
    # a GPU's file must be a character device; these have NVIDIA's number and need no driver
    for card in 0 1; do
        [ -c "$home/devices/card$card" ] || mknod "$home/devices/card$card" c 195 "$card"
    done
    [ -f "$home/etc/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom > "$home/etc/munge.key")
    echo "NodeName=one,two Name=gpu Type=pretend File=$home/devices/card[0-1]" > "$home/etc/gres.conf"
    echo "CgroupAutomount=no" > "$home/etc/cgroup.conf"
    cat > "$home/etc/slurm.conf" << END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$home/run/munge.socket
CredType=cred/munge
MpiDefault=none
# without cgroups: they are not there in every container
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmctldPort=26817
SlurmctldPidFile=$home/run/slurmctld.pid
SlurmdPidFile=$home/run/slurmd-%n.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd-%n.log
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool/%n
# more processors than there are: the tests' jobs mostly start Python
SlurmdParameters=config_overrides
SelectType=select/cons_tres
# two jobs at once run on two nodes
SelectTypeParameters=CR_CPU_Memory,CR_LLN
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
GresTypes=gpu
ReturnToService=2
MinJobAge=600
KillWait=10
OverTimeLimit=0
DefMemPerCPU=300
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=26818 CPUs=8 RealMemory=16000 Gres=gpu:pretend:2 State=UNKNOWN
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=26819 CPUs=8 RealMemory=16000 Gres=gpu:pretend:2 State=UNKNOWN
PartitionName=cpu Nodes=one,two Default=YES MaxTime=60 State=UP
PartitionName=gpu Nodes=one,two MaxTime=600 State=UP
END
}

start() {
    if [ -s "$home/run/slurmctld.pid" ] && kill -0 "$(cat "$home/run/slurmctld.pid")" 2> /dev/null; then
        echo "it runs already: $0 stop" >&2
        exit 1
    fi
    configure
    mkdir -p /etc/slurm
    for file in "${configuration[@]}"; do
        if [ -e "/etc/slurm/$file" ] && [ ! -L "/etc/slurm/$file" ]; then
            echo "/etc/slurm/$file belongs to another cluster: this one is not started over it" >&2
            exit 1
        fi
        ln -sfn "$home/etc/$file" "/etc/slurm/$file"
    done
    munged --force --key-file="$home/etc/munge.key" --socket="$home/run/munge.socket" --pid-file="$home/run/munged.pid" \
        --log-file="$home/log/munged.log" --seed-file="$home/run/munged.seed" --num-threads=2
    slurmctld -c # -c: forgets the jobs of before
    for node in "${nodes[@]}"; do
        slurmd -N "$node"
    done
    for _ in $(seq 150); do
        if [ "$(sinfo -h -N -p gpu -t idle -o %N 2> /dev/null | wc -l)" -eq "${#nodes[@]}" ]; then
            sinfo -o "%P %N %T %G %c %m"
            return
        fi
        sleep 0.2
    done
    echo "the nodes do not become idle; logs are in $home/log" >&2
    exit 1
}

stop() {
    scancel --user root 2> /dev/null || true
    for daemon in "${nodes[@]/#/slurmd-}" slurmctld munged; do
        file="$home/run/$daemon.pid"
        [ -s "$file" ] || continue
        number=$(cat "$file")
        kill "$number" 2> /dev/null || true
        for _ in $(seq 50); do
            state=$(ps -o stat= -p "$number" 2> /dev/null || true)
            [ -z "${state#Z*}" ] && break # gone, or a zombie that nobody collects
            sleep 0.1
        done
        rm -f "$file"
    done
    for file in "${configuration[@]}"; do
        [ ! -L "/etc/slurm/$file" ] || rm "/etc/slurm/$file"
    done
}

case "${1:-}" in
    install | start | stop) "$1" ;;
    status) sinfo && squeue ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac

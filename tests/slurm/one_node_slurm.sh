#!/usr/bin/env bash
# A real Slurm of one node on loopback, without systemd and without cgroups, with fake GPUs.
#   one_node_slurm.sh start FOLDER [GPUS]    install what is missing (Debian's packages), configure, start
#   one_node_slurm.sh stop  FOLDER           end exactly the daemons that start started
# Root only: meant for a throw-away machine or container. /etc/slurm/slurm.conf becomes a link into FOLDER while it runs: the
# executor plugin drops SLURM_* variables, SLURM_CONF too, so that srun in a job looks there. An existing file is left alone.
set -euo pipefail
COMMAND=$1; mkdir -p "$2"; FOLDER=$(cd "$2" && pwd -P); GPUS=${3:-2}

stop() {
  for name in slurmd slurmctld munged; do
    [ -f "$FOLDER/$name.pid" ] || continue
    process=$(cat "$FOLDER/$name.pid")
    [ "$(cat "/proc/$process/comm" 2>/dev/null)" = $name ] && kill "$process" || true
    for _ in $(seq 50); do [ -d "/proc/$process" ] || break; sleep 0.1; done
    rm -f "$FOLDER/$name.pid"
  done
  for name in slurm.conf gres.conf; do
    [ "$(readlink "/etc/slurm/$name" 2>/dev/null)" = "$FOLDER/$name" ] && rm -f "/etc/slurm/$name" || true
  done
}

if [ "$COMMAND" = stop ]; then stop; exit 0; fi
if [ "$(id -u)" != 0 ]; then echo "only root can start a Slurm" >&2; exit 77; fi
if [ -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ]; then
  echo "/etc/slurm/slurm.conf exists: this machine has a Slurm of its own" >&2; exit 77
fi
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
  command -v apt-get >/dev/null || { echo "slurmctld is missing and there is no apt-get" >&2; exit 77; }
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge; } >/dev/null \
    || { echo "apt-get could not install slurmctld, slurmd, slurm-client and munge" >&2; exit 77; }
fi

stop
mkdir -p "$FOLDER"/{spool,state,log,munge,run}
chmod 755 "$FOLDER" "$FOLDER/run"; chmod 700 "$FOLDER/munge"
HOST=$(hostname -s)
MEMORY=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 - 512))

# a key and a socket of its own: a munge that runs here already is left alone
[ -f "$FOLDER/munge/key" ] || head -c 1024 /dev/urandom >"$FOLDER/munge/key"
chmod 400 "$FOLDER/munge/key"
munged --force --key-file="$FOLDER/munge/key" --socket="$FOLDER/run/munge.sock" --pid-file="$FOLDER/munged.pid" \
  --log-file="$FOLDER/munge/munged.log" --seed-file="$FOLDER/munge/seed" 2>>"$FOLDER/log/munged.start"

# fake GPUs: character devices that are copies of /dev/null
for number in $(seq 0 $((GPUS - 1))); do
  [ -e "$FOLDER/gpu$number" ] || mknod "$FOLDER/gpu$number" c 1 3
done
echo "NodeName=$HOST Name=gpu Type=fake File=$FOLDER/gpu[0-$((GPUS - 1))]" >"$FOLDER/gres.conf"

cat >"$FOLDER/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$FOLDER/run/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/log/slurmctld.log
SlurmdLogFile=$FOLDER/log/slurmd.log
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# memory is counted, and a job that uses more than it asked for is killed
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=200
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$FOLDER/log/jobcomp.txt
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,defer
ReturnToService=2
MinJobAge=600
InactiveLimit=0
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=60
GresTypes=gpu
# more processors than there are: on a machine of one or two, jobs must still be able to run beside each other
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=4 RealMemory=$MEMORY Gres=gpu:fake:$GPUS State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
SlurmdParameters=config_overrides
EOF
mkdir -p /etc/slurm
ln -sfn "$FOLDER/slurm.conf" /etc/slurm/slurm.conf
ln -sfn "$FOLDER/gres.conf" /etc/slurm/gres.conf
unset SLURM_CONF
slurmctld -i
slurmd
for _ in $(seq 150); do
  [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && { echo "slurm is up: $(sinfo -h)"; exit 0; }
  sleep 0.2
done
echo "the cluster did not come up:" >&2; sinfo >&2 || true; tail -n 20 "$FOLDER"/log/*.log >&2; stop; exit 1

"""`farshore doctor`: what it says of restarts and request buffers is what this process may do, with and without privileges."""
import json
import os
import resource
import subprocess

from scenario import MIB, PROGRAM, Scenario, check, requires

SYS_RESOURCE = 24


def doctor(s, *prefix):
    done = subprocess.run([*prefix, PROGRAM, "doctor", "--json"], capture_output=True, text=True, env=dict(os.environ, FARSHORE_SITE=s.site))
    return {line["name"]: line for line in json.loads(done.stdout)}


requires("setpriv", "prlimit")
with Scenario() as s:
    with open("/proc/self/status") as file:
        effective = int(next(line for line in file if line.startswith("CapEff:")).split()[1], 16)
    found = doctor(s)
    expected = "ok" if effective & (1 << SYS_RESOURCE) else "degraded"
    check(found["worker restart"]["state"] == expected, f"{found['worker restart']} with capabilities {effective:x}")
    if os.geteuid() == 0:
        without = doctor(s, "setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource")
        check(without["worker restart"]["state"] == "degraded", f"without CAP_SYS_RESOURCE: {without['worker restart']}")
        check(found["locked memory"]["state"] == "ok" and "16 requests of 1.0 MiB" in found["locked memory"]["found"], str(found["locked memory"]))
    else:
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        if hard == resource.RLIM_INFINITY or hard >= 8 * MIB:
            small = doctor(s, "prlimit", f"--memlock={8 * MIB}:{8 * MIB}")["locked memory"]
            check(small["state"] == "degraded" and "16 requests of 256" in small["found"], str(small))
    print("doctor tells the two apart")

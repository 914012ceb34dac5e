#!/usr/bin/env bash
# gymnasium 1.4.0: NormalizeReward scales the same rewards of the same episodes differently in each autoreset mode.
#
# The vector wrapper divides rewards by the spread of a discounted sum that it carries along. With SAME_STEP the sum begins anew
# after every episode; with NEXT_STEP, which make_vec takes unless told otherwise, only a termination cuts it off, and it runs on
# through a truncation.
#
# Here are environments whose episodes the time limit ends after 10 steps, with rewards between 0 and 1 that no action changes.
# The step that NEXT_STEP spends on a reset is left out of the sum, so both modes see the same rewards.
#
# Seen: the two lines that are compared below.
# Why it matters: a system that is controlled for so many minutes an episode is truncated and never terminates. Step size, clipping
# and weight of the entropy that were tuned in one mode do not fit the other, and returns of the two cannot be compared.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv v; v/bin/pip install --quiet gymnasium==1.4.0 numpy==2.4.6 2>/dev/null
cat >see.py <<'PY'
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import NormalizeReward


class Windows(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(self.np_random.random()), False, False, {}


for mode, steps in ((AutoresetMode.SAME_STEP, 10), (AutoresetMode.NEXT_STEP, 11)):
    envs = NormalizeReward(SyncVectorEnv([lambda: TimeLimit(Windows(), 10)] * 8, autoreset_mode=mode))
    envs.reset(seed=0)
    for _ in range(100 * steps):
        envs.step(envs.action_space.sample())
    print(f"{mode.name}: 100 episodes of 10 steps, rewards are divided by {np.sqrt(envs.return_rms.var):.1f}")
PY
v/bin/python see.py | tee seen.txt
diff seen.txt - <<'TXT'
SAME_STEP: 100 episodes of 10 steps, rewards are divided by 1.5
NEXT_STEP: 100 episodes of 10 steps, rewards are divided by 9.9
TXT

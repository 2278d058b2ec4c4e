// One handle() in progress: its time, and what it gives.
#pragma once

#include "engine/engine.h"

namespace midstream {

struct Engine::Flight {
  std::int64_t now;
  Effects effects;

  void wake(std::int64_t at) {
    if (!effects.wake_at || *effects.wake_at > at) effects.wake_at = at;
  }
};

}  // namespace midstream

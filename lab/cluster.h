// Template images of the two PostgreSQL clusters: initdb and the shop's rows cost seconds, a sparse copy does not.
#pragma once

#include <filesystem>
#include <functional>
#include <stop_token>
#include <string_view>

#include "base/result.h"
#include "lab/scenario.h"
#include "sys/clock.h"

namespace midstream::lab {

// The template for `side` (old_side or new_side), from `cache` or built there now; safe with several labs at once.
// The name in the cache is a hash of everything that goes into it.
Result<std::filesystem::path> cluster_template(const Scenario& scenario, Role side, const std::filesystem::path& cache,
                                               const std::filesystem::path& programs,
                                               const std::function<void(std::string_view)>& tell, Deadline deadline,
                                               const std::stop_token& stop);

// Builds it into `image`, in a process of its own: `midstream-lab template SCENARIO old|new IMAGE`.
Result<> build_cluster_template(const Scenario& scenario, Role side, const std::filesystem::path& image,
                                const std::filesystem::path& programs);

}  // namespace midstream::lab

#include "lab/cluster.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/text.h"
#include "lab/image.h"
#include "lab/machine.h"
#include "lab/provision.h"
#include "sys/child.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream::lab {

namespace fs = std::filesystem;

namespace {

HostPlan plan_of(const Scenario& scenario, Role side) {
  for (const auto& host : scenario.hosts()) {
    if (host.role == side) return host;
  }
  return {};
}

Result<std::string> fingerprint(const Scenario& scenario, const HostPlan& plan) {
  const auto version = TRY(run_child({"/usr/lib/postgresql/15/bin/postgres", "--version"}, "", Deadline::in(Millis(10'000))));
  std::string all = fmt::format("{}{}{}", version.out, to_string(plan.role), plan.image_mib);
  const auto files = provision_cluster_template(scenario, plan);
  for (const auto& entry : files.entries()) {
    all += fmt::format("{}\n{}\n{:o} {}\n", entry.path, entry.content, entry.mode, entry.owner);
  }
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_Digest(all.data(), all.size(), out, &length, EVP_sha256(), nullptr);
  return to_hex(std::string_view(reinterpret_cast<char*>(out), 8));
}

}  // namespace

Result<fs::path> cluster_template(const Scenario& scenario, Role side, const fs::path& cache, const fs::path& programs,
                                  const std::function<void(std::string_view)>& tell, Deadline deadline,
                                  const std::stop_token& stop) {
  const auto plan = plan_of(scenario, side);
  CHECK_OK(make_directories(cache, 0755));
  const auto hash = TRY(fingerprint(scenario, plan));
  const fs::path image = cache / fmt::format("cluster-{}-{}-{}.img", scenario.name, to_string(side), hash);
  Fd lock(::open((cache / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  while (!lock || ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (!lock || errno != EWOULDBLOCK) return errno_failure(fmt::format("cannot lock {}", cache.string()), errno);
    if (deadline.expired() || !pause_for(Millis(50), stop)) {
      return failure(ErrorKind::cancelled, "another lab is still building the template of the cluster");
    }
  }
  if (fs::exists(image)) return image;
  if (tell) tell(fmt::format("making the template of the {} PostgreSQL cluster (once)", to_string(side)));
  const fs::path temporary = image.string() + ".tmp";
  const auto exit = TRY(run_child({(programs / "midstream-lab").string(), "template", scenario.name,
                                   std::string(to_string(side)), temporary.string()},
                                  "", deadline, stop));
  if (exit.code != 0) return refused(fmt::format("the template could not be built: {}", trim(exit.err)));
  if (::rename(temporary.c_str(), image.c_str()) != 0) return errno_failure("cannot keep the template", errno);
  return image;
}

Result<> build_cluster_template(const Scenario& scenario, Role side, const fs::path& image, const fs::path& programs) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (::unshare(CLONE_NEWNS) != 0) return errno_failure("cannot make a mount namespace", errno);
  CHECK_OK(make_mounts_private());
  const auto plan = plan_of(scenario, side);
  const auto files = provision_cluster_template(scenario, plan);
  MachineSpec spec;
  spec.name = plan.name;
  spec.image = image;
  spec.mount_point = image.string() + ".mnt";
  spec.programs = programs;
  spec.files = &files;
  spec.command = {"/bin/sh", "/root/template.sh"};
  spec.console = image.string() + ".log";
  CHECK_OK(make_image(image, plan.image_mib));
  CHECK_OK(make_directories(spec.mount_point));
  auto machine = TRY(prepare_machine(spec));
  CHECK_OK(start_machine(machine));
  int status = 0;
  while (::waitpid(machine.pid, &status, 0) < 0 && errno == EINTR) {
  }
  CHECK_OK(await_images_free(image, Deadline::in(Millis(10'000))));
  if (status != 0) return refused(fmt::format("template.sh failed: {}", read_file(spec.console).value_or("")));
  std::error_code ignored;
  fs::remove(spec.mount_point, ignored);
  fs::remove(spec.console, ignored);
  return {};
}

}  // namespace midstream::lab

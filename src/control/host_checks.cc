#include "control/host_checks.h"

#include <fmt/format.h>

namespace midstream {

namespace {

Step asked(const std::string& host, const std::string& text, Json desired) {
  Step step;
  step.id = get_string_or(desired, "kind", "") + "-" + host;
  step.phase = "prepare";
  step.host = host;
  step.hosts = {host};
  step.mover = "hosts";
  step.desired = std::move(desired);
  step.text = text;
  return step;
}

// What lands on new and takes room there; on old at the same ports but for the databases'.
Json things_of(const Manifest& manifest, bool old_side) {
  Json things = Json::array();
  for (const auto& service : manifest.services) {
    for (const auto& tree : service.files) things.push_back({{"what", tree.path}, {"path", tree.path}});
    if (service.mail) things.push_back({{"what", "mail of " + service.name}, {"mail", true}});
    if (!service.postgres) continue;
    const auto& cluster = old_side ? service.postgres->old_side : service.postgres->new_side;
    things.push_back({{"what", fmt::format("PostgreSQL of {}", service.name)}, {"port", cluster.port}});
  }
  return things;
}

Json inventory(const Manifest& manifest, const Json& servers) {
  Json addresses = Json::array();
  for (const auto& subnet : manifest.subnets) {
    for (const auto& address : subnet.addresses) addresses.push_back(address);
  }
  Json clusters = Json::array();
  Json trees = Json::array();
  std::string mail;
  for (const auto& service : manifest.services) {
    if (service.mail && service.mail->old_host == manifest.old_host) mail = "service " + service.name;
    for (const auto& tree : service.files) trees.push_back({{"path", tree.path}, {"by", "service " + service.name}});
    if (service.postgres && service.postgres->old_side.host == manifest.old_host)
      clusters.push_back({{"port", service.postgres->old_side.port}, {"by", service.name}});
  }
  Json units = Json::array();
  for (const auto& unit : manifest.units) units.push_back(unit.name);
  return {{"kind", "inventory"},
          {"to", manifest.new_host},
          {"addresses", addresses},
          {"clusters", clusters},
          {"trees", trees},
          {"mail", mail},
          {"units", units},
          {"servers", servers},
          {"accept", manifest.accept},
          {"days", 7}};
}

Json size(const Manifest& manifest, const HostSpec& host) {
  Json desired{{"kind", "size"},
               {"at_least",
                {{"memory", host.at_least_memory},
                 {"cpus", host.at_least_cpus},
                 {"disk", host.at_least_disk},
                 {"inodes", host.at_least_inodes}}}};
  if (host.grow <= 0) return desired;
  const bool is_new = host.name == manifest.new_host;
  desired["grow"] = {{"factor", host.grow},
                     {"from", manifest.old_host},
                     {"old_things", is_new ? things_of(manifest, true) : Json::array()},
                     {"things", is_new ? things_of(manifest, false) : Json::array()}};
  return desired;
}

}  // namespace

std::vector<Step> host_checks(const Manifest& manifest, const Json& servers) {
  std::vector<Step> steps;
  for (const auto& host : manifest.hosts) {
    const bool wished = host.at_least_memory > 0 || host.at_least_disk > 0 || host.at_least_cpus > 0 ||
                        host.at_least_inodes > 0 || host.grow > 0;
    if (wished)
      steps.push_back(asked(host.name, fmt::format("see whether {} is large enough", host.name), size(manifest, host)));
  }
  steps.push_back(asked(manifest.old_host, fmt::format("see what {} has that nothing moves", manifest.old_host),
                        inventory(manifest, servers)));
  return steps;
}

std::vector<ServersQuestion> servers_questions(const Manifest& manifest) {
  std::vector<ServersQuestion> questions;
  for (const auto& service : manifest.services) {
    if (!service.traffic) continue;
    const auto& spec = *service.traffic;
    questions.push_back({spec.haproxy,
                         service.name,
                         {{"kind", "drain"},
                          {"socket", spec.socket},
                          {"config", spec.config},
                          {"backend", spec.backend},
                          {"old", spec.old_servers},
                          {"new", spec.new_servers},
                          {"servers", spec.old_servers}}});
  }
  return questions;
}

}  // namespace midstream

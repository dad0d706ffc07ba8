-- What `ostler reconcile` does: a pass now, and a new episode for what waits for a person.
local os = require("os")
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["ostler.dev/reconcile-requested-at"] = os.date("!%Y-%m-%dT%XZ")
return obj

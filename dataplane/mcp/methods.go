package mcp

// Methods of the protocol, of all its versions. Others are relayed as well.
const (
	MethodInitialize           = "initialize"
	MethodPing                 = "ping"
	MethodComplete             = "completion/complete"
	MethodSetLevel             = "logging/setLevel"
	MethodPromptsList          = "prompts/list"
	MethodPromptsGet           = "prompts/get"
	MethodResourcesList        = "resources/list"
	MethodResourcesTemplates   = "resources/templates/list"
	MethodResourcesRead        = "resources/read"
	MethodResourcesSubscribe   = "resources/subscribe"
	MethodResourcesUnsubscribe = "resources/unsubscribe"
	MethodToolsList            = "tools/list"
	MethodToolsCall            = "tools/call"
	MethodTasksGet             = "tasks/get"
	MethodTasksResult          = "tasks/result"
	MethodTasksList            = "tasks/list"
	MethodTasksUpdate          = "tasks/update"
	MethodTasksCancel          = "tasks/cancel"
	MethodDiscover             = "server/discover"
	MethodListen               = "subscriptions/listen"
	MethodCreateMessage        = "sampling/createMessage"
	MethodElicit               = "elicitation/create"
	MethodRootsList            = "roots/list"
	MethodInitialized          = "notifications/initialized"
	MethodCancelled            = "notifications/cancelled"
	MethodProgress             = "notifications/progress"
	MethodLogMessage           = "notifications/message"
	MethodRootsListChanged     = "notifications/roots/list_changed"
	MethodToolsListChanged     = "notifications/tools/list_changed"
	MethodPromptsListChanged   = "notifications/prompts/list_changed"
	MethodResourcesListChanged = "notifications/resources/list_changed"
	MethodResourcesUpdated     = "notifications/resources/updated"
	MethodElicitationComplete  = "notifications/elicitation/complete"
	MethodTasksStatus          = "notifications/tasks/status"
	MethodTasksNotification    = "notifications/tasks"
	MethodListenAcknowledged   = "notifications/subscriptions/acknowledged"
	methodResourcesPrefix      = "resources/"
)

// internMethod returns raw as a string, without an allocation if it is a method
// that we know.
func internMethod(raw []byte) string {
	switch string(raw) {
	case MethodInitialize:
		return MethodInitialize
	case MethodPing:
		return MethodPing
	case MethodComplete:
		return MethodComplete
	case MethodSetLevel:
		return MethodSetLevel
	case MethodPromptsList:
		return MethodPromptsList
	case MethodPromptsGet:
		return MethodPromptsGet
	case MethodResourcesList:
		return MethodResourcesList
	case MethodResourcesTemplates:
		return MethodResourcesTemplates
	case MethodResourcesRead:
		return MethodResourcesRead
	case MethodResourcesSubscribe:
		return MethodResourcesSubscribe
	case MethodResourcesUnsubscribe:
		return MethodResourcesUnsubscribe
	case MethodToolsList:
		return MethodToolsList
	case MethodToolsCall:
		return MethodToolsCall
	case MethodTasksGet:
		return MethodTasksGet
	case MethodTasksResult:
		return MethodTasksResult
	case MethodTasksList:
		return MethodTasksList
	case MethodTasksUpdate:
		return MethodTasksUpdate
	case MethodTasksCancel:
		return MethodTasksCancel
	case MethodDiscover:
		return MethodDiscover
	case MethodListen:
		return MethodListen
	case MethodCreateMessage:
		return MethodCreateMessage
	case MethodElicit:
		return MethodElicit
	case MethodRootsList:
		return MethodRootsList
	}
	return internNotification(raw)
}

func internNotification(raw []byte) string {
	switch string(raw) {
	case MethodInitialized:
		return MethodInitialized
	case MethodCancelled:
		return MethodCancelled
	case MethodProgress:
		return MethodProgress
	case MethodLogMessage:
		return MethodLogMessage
	case MethodRootsListChanged:
		return MethodRootsListChanged
	case MethodToolsListChanged:
		return MethodToolsListChanged
	case MethodPromptsListChanged:
		return MethodPromptsListChanged
	case MethodResourcesListChanged:
		return MethodResourcesListChanged
	case MethodResourcesUpdated:
		return MethodResourcesUpdated
	case MethodElicitationComplete:
		return MethodElicitationComplete
	case MethodTasksStatus:
		return MethodTasksStatus
	case MethodTasksNotification:
		return MethodTasksNotification
	case MethodListenAcknowledged:
		return MethodListenAcknowledged
	}
	return string(raw)
}
